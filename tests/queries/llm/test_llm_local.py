"""Models on this machine: tiny random ones, whose answers are garbage and must be told apart from queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_server import passages
from shoptalk.errors import ModelError
from shoptalk.queries.llm import generate_with_llm
from shoptalk.queries.llm.local import LocalModel
from shoptalk.settings import LLMSettings

WORDS = (
    "what when where how who is a the rota ward night ill colleague claim paid form send office stands in for".split()
)
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<answer>"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


def tokenizer(folder: Path, template: str = "", max_tokens: int = 2048) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([f" {word}" for word in WORDS], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", eos_token="</s>", model_max_length=max_tokens
    )
    if template:
        fast.chat_template = template
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory) -> Path:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    size = tokenizer(folder)
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=size, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def causal(folder: Path, template: str = "", positions: int = 4096) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = tokenizer(folder, template, positions)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=positions, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def settings(folder: Path, **values) -> LLMSettings:
    return LLMSettings(
        **{"provider": "transformers", "model": str(folder), "answer_tokens": 64, "attempts": 2, **values}
    )


def test_a_sequence_to_sequence_model_gives_plain_texts_as_queries(tiny_t5, tmp_path):
    made = generate_with_llm(passages(5), settings(tiny_t5, queries_per_passage=3), tmp_path / "a")
    assert made.drafts
    assert {(draft.kind, draft.origin) for draft in made.drafts} == {("doc2query", "llm")}
    assert all(1 <= len(draft.text) <= 200 for draft in made.drafts)
    assert {ids for draft in made.drafts for ids in draft.passage_ids} | {
        r.item.split(":")[0] for r in made.rejected
    } == {f"p{i}" for i in range(5)}
    assert made.usage.spent.tokens_out > 0
    assert made.usage.spent.cost == 0


def test_the_same_seed_gives_the_same_queries_and_another_one_others(tiny_t5, tmp_path):
    first = generate_with_llm(passages(3), settings(tiny_t5), tmp_path / "a")
    again = generate_with_llm(passages(3), settings(tiny_t5), tmp_path / "b")
    other = generate_with_llm(passages(3), settings(tiny_t5, seed=13), tmp_path / "c")
    assert first.drafts == again.drafts
    assert first.drafts != other.drafts


def test_what_was_written_before_a_kill_is_kept_and_the_rest_is_the_same(tiny_t5, tmp_path):
    whole = generate_with_llm(passages(6), settings(tiny_t5, concurrency=2), tmp_path / "a")
    lines = (tmp_path / "a" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + b'{"type": "answ')
    again = generate_with_llm(passages(6), settings(tiny_t5, concurrency=2), tmp_path / "b")
    assert again.usage.cached > 0
    assert again.usage.calls < whole.usage.calls
    assert {draft.passage_ids for draft in again.drafts} == {draft.passage_ids for draft in whole.drafts}


@pytest.mark.parametrize("template", ["", TEMPLATE, NO_SYSTEM])
def test_garbage_of_a_causal_model_is_rejected_for_a_reason(template, tmp_path):
    folder = causal(tmp_path / "model", template)
    made = generate_with_llm(passages(3), settings(folder), tmp_path / "a")
    assert made.drafts == []
    assert {rejected.item.split(":")[0] for rejected in made.rejected} == {"p0", "p1", "p2"}
    assert {rejected.check for rejected in made.rejected} <= {"not-json", "empty", "schema", "missing", "not-asked-for"}
    assert made.usage.calls == 6  # every passage was given both attempts


def test_the_chat_template_is_used_when_there_is_one(tmp_path):
    from shoptalk.queries.llm.jobs import make_jobs
    from shoptalk.queries.llm.prompting import Prompts

    plain = causal(tmp_path / "plain")
    chat = causal(tmp_path / "chat", TEMPLATE)
    told = causal(tmp_path / "told", NO_SYSTEM)
    job = make_jobs(passages(1), settings(plain))[0]
    request = Prompts(settings(plain), []).request(job.slots, job.passages, [], 0)
    seen = {}
    for folder in (plain, chat, told):
        model = LocalModel(settings(folder))
        seen[folder.name] = model._tokenizer.decode(model._prompt(request))
    assert seen["plain"].startswith("You write search queries")
    assert seen["chat"].startswith("<system>You write search queries")
    assert seen["told"].startswith("<user>You write search queries")
    assert all(request.user.splitlines()[-1] in text for text in seen.values())


def test_a_prompt_that_is_too_long_for_the_model_is_left_out_with_the_reason(tmp_path):
    folder = causal(tmp_path / "model", positions=256)
    made = generate_with_llm(passages(2), settings(folder), tmp_path / "a")
    assert made.drafts == []
    assert {rejected.check for rejected in made.rejected} == {"too-long"}


def test_pickles_custom_code_and_encoders_are_refused(tmp_path, tiny_t5, tiny_bert):
    import shutil

    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_t5, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    custom = tmp_path / "custom"
    shutil.copytree(tiny_t5, custom)
    config = json.loads((custom / "config.json").read_text())
    (custom / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    for folder, says in ((pickled, "pickle"), (custom, "custom code"), (tmp_path / "none", "no such folder")):
        with pytest.raises(ModelError, match=says):
            generate_with_llm(passages(1), settings(folder), tmp_path / "a")
