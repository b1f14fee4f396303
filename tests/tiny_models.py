"""Tiny random models of the architectures that base models come in, laid out as their best-known members are on the Hub.

bert          BGE v1.5: WordPiece, CLS pooling, a prompt for queries only
xlm_roberta   multilingual E5: Unigram, mean pooling, prompts for both; two positions are kept for padding
mpnet         all-mpnet: WordPiece, mean pooling, no prompts; two positions are kept for padding
modernbert    ModernBERT-embed: byte-level BPE, mean pooling, prompts for both; rotary positions
gemma3        EmbeddingGemma: BPE with byte fallback, attention in both directions, mean pooling, two projections, many prompts
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toy import ASKED, SAID

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

DIM = 32
MAX_TOKENS = 64
_LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789.,:?!-'|"]
_WHOLE = [*"what is the on for of one two three in who can you".split(), *ASKED, *SAID]
_WORDPIECES = [*_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WHOLE]
_SMALL = {
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.1,  # as wide as it takes for the first token to know the others before any training
}


def build_tiny(name: str, folder: Path) -> Path:
    """Save the random model of that architecture (a key of MODELS) as SentenceTransformer does; returns `folder`."""
    return MODELS[name](folder)


def build_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDPIECES]
    tokenizer = BertTokenizer(vocab=_ids(pieces), model_max_length=MAX_TOKENS)
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=MAX_TOKENS, **_SMALL)
    return _save(folder, config, tokenizer, "cls", {"query": "Search for this: ", "document": ""})


def build_xlm_roberta(folder: Path) -> Path:
    from transformers import XLMRobertaConfig, XLMRobertaTokenizer

    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -5.0) for word in _WHOLE] + [(piece, -9.0) for piece in ("▁", *_LETTERS)]
    pieces += [("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=pieces, model_max_length=MAX_TOKENS)
    config = XLMRobertaConfig(vocab_size=len(pieces), max_position_embeddings=MAX_TOKENS + 2, pad_token_id=1, **_SMALL)
    return _save(folder, config, tokenizer, "mean", {"query": "query: ", "passage": "passage: "})


def build_mpnet(folder: Path) -> Path:
    from transformers import MPNetConfig, MPNetTokenizer

    pieces = ["<s>", "<pad>", "</s>", "[UNK]", *_WORDPIECES, "<mask>"]
    tokenizer = MPNetTokenizer(vocab=_ids(pieces), model_max_length=MAX_TOKENS - 16)
    config = MPNetConfig(vocab_size=len(pieces), max_position_embeddings=MAX_TOKENS + 2, pad_token_id=1, **_SMALL)
    return _save(folder, config, tokenizer, "mean", {})


def build_modernbert(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import ModernBertConfig, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [f" {word}" for word in _WHOLE],
        trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **names)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = ModernBertConfig(
        vocab_size=len(fast), max_position_embeddings=4 * MAX_TOKENS, local_attention=8, **ids, **_SMALL
    )
    return _save(folder, config, fast, "mean", {"query": "search_query: ", "document": "search_document: "})


def build_gemma3(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Dense
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Gemma3TextConfig, GemmaTokenizer

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trained.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trained.train_from_iterator(
        [*(f" {word}" for word in _WHOLE), *_LETTERS],
        trainers.BpeTrainer(vocab_size=700, special_tokens=[*specials, *bytes_], show_progress=False),
    )
    model = trained.to_str()
    fast = GemmaTokenizer(
        **_vocabulary_and_merges(model),
        add_bos_token=True,
        add_eos_token=True,
        padding_side="right",
        model_max_length=MAX_TOKENS,
    )
    config = Gemma3TextConfig(
        vocab_size=len(fast),
        max_position_embeddings=4 * MAX_TOKENS,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
        **_SMALL,
    )
    prompts = {
        "query": "task: search result | query: ",
        "document": "title: none | text: ",
        "Clustering": "task: clustering | query: ",
        "STS": "task: sentence similarity | query: ",
    }

    def projections() -> list[Any]:
        sizes = ((DIM, 4 * DIM), (4 * DIM, DIM))
        return [Dense(a, b, bias=False, activation_function=None) for a, b in sizes]

    return _save(folder, config, fast, "mean", prompts, projections)


MODELS: dict[str, Callable[[Path], Path]] = {
    "bert": build_bert,
    "xlm_roberta": build_xlm_roberta,
    "mpnet": build_mpnet,
    "modernbert": build_modernbert,
    "gemma3": build_gemma3,
}


def _ids(pieces: list[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}


def _vocabulary_and_merges(model: str) -> dict[str, Any]:
    trained = json.loads(model)["model"]
    return {"vocab": trained["vocab"], "merges": [tuple(merge) for merge in trained["merges"]]}


def _save(
    folder: Path,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    pooling: str,
    prompts: dict[str, str],
    projections: Callable[[], list[Any]] = list,
) -> Path:
    """Random weights for the configuration, put together and saved."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoModel

    torch.manual_seed(7)
    parts = folder.with_name(folder.name + "-parts")
    AutoModel.from_config(config).save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    modules = [Transformer(str(parts)), Pooling(DIM, pooling_mode=pooling), *projections(), Normalize()]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder))
    return folder
