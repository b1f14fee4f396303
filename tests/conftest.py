"""What all tests share: fakes that implement the protocols, a tiny random BERT, and a stage's context without a run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.beir import write_jsonl
from shoptalk.settings import Settings, make_settings
from shoptalk.workspace import StageContext

WORDS = """
a an and are as at be by can for from how in is it not of on or the this that to we what when where who with
you your one two three four five booking hotel travel policy refund invoice member office room train plane
ticket price form manager approve report budget project team claim expense lunch dinner day week month year
city card phone mail send
""".split()


class HashEncoder:
    """An Encoder whose vectors follow from the text alone: same text, same vector; other text, unrelated vector."""

    def __init__(self, dim: int = 8, query_prompt: str = "") -> None:
        self.dim = dim
        self.query_prompt = query_prompt
        self.encoded: list[str] = []

    @property
    def digest(self) -> str:
        return f"hash-{self.dim}-{self.query_prompt}"

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode([self.query_prompt + text for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
            vector = np.random.default_rng(seed).normal(size=self.dim)
            vectors[row] = vector / np.linalg.norm(vector)
        return vectors


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the vectors that the user keeps."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture
def hash_encoder() -> HashEncoder:
    return HashEncoder(dim=8)


@pytest.fixture
def make_encoder() -> type[HashEncoder]:
    return HashEncoder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers and 32 dimensions, 64 tokens at most, saved as SentenceTransformer does."""
    return build_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def make_tiny_bert() -> Callable[..., Path]:
    """Build another one: make_tiny_bert(FOLDER, seed=8)."""
    return build_tiny_bert


def build_tiny_bert(folder: Path, seed: int = 7) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,:?!-'")
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *(w for w in WORDS if len(w) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    parts = folder.with_name(folder.name + "-parts")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(parts)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(parts)
    transformer = Transformer(str(parts))
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean"), Normalize()], device="cpu")
    model.max_seq_length = 64
    model.save(str(folder))
    return folder


@pytest.fixture
def make_stage(tmp_path: Path) -> Callable[..., StageContext]:
    """A StageContext that reads plain folders: make_stage({"input": {...}}, passages=FOLDER, queries=FOLDER)."""

    def make(values: Mapping[str, Any] | None = None, **artifacts: Path) -> StageContext:
        settings = values if isinstance(values, Settings) else make_settings(values or {})
        folders = {name: tmp_path / name for name in ("out", "scratch", "cache")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        return StageContext(
            settings, lambda name: artifacts[name], folders["out"], folders["scratch"], folders["cache"], {}, 0
        )

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSON-lines file below the test's folder and return its path."""

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        write_jsonl(tmp_path / name, rows)
        return tmp_path / name

    return write
