"""Message Batches: sent once, taken up again, and read to the last result."""

from __future__ import annotations

import json

import pytest

from llm_server import TOKENS_IN, TOKENS_OUT, per_document
from shoptalk.errors import ProviderFailed, ProviderRefused

BATCH = {"provider": "anthropic", "batch": True, "batch_poll_s": 0.01}


def test_a_batch_makes_what_single_calls_make(generate, server, tmp_path):
    made = generate(6, **BATCH)
    assert len(server.batches) == 1
    assert made.usage.calls == 6
    assert made.usage.spent.tokens == 6 * (TOKENS_IN + TOKENS_OUT)
    assert all("/batches" in path for path in server.paths)
    again = generate(6, **BATCH)
    single = generate(6, "anthropic")
    assert again.drafts == single.drafts == made.drafts
    assert server.n_paid == 6


def test_answers_that_cannot_be_used_go_into_the_next_batch(generate, server):
    server.script = per_document({"W0x": ["refusal"], "W1x": ["errored"], "W2x": ["errored", "errored"]})
    made = generate(4, **BATCH)
    assert {draft.passage_ids[0] for draft in made.drafts} == {"p0", "p1", "p3"}
    assert {(r.item.split(":")[0], r.check) for r in made.rejected} == {("p0", "refused"), ("p2", "no-answer")}
    assert server.n_paid == 4  # an errored request costs nothing
    assert made.usage.spent.tokens == 4 * (TOKENS_IN + TOKENS_OUT)
    assert len(server.batches) == 2


def test_polls_and_results_that_fail_are_tried_again(generate, server):
    server.script = per_document({"poll": ["status 500", "status 429"], "results": ["cut", "cut"]})
    made = generate(5, **BATCH)
    assert len(made.drafts) == 20
    assert len(server.batches) == 1
    assert max(server.paid.values()) == 1


def test_a_batch_whose_id_never_arrived_is_found_and_not_sent_again(generate, server):
    server.script = per_document({"create-batch": ["hang 1"]})
    made = generate(5, **BATCH, timeout_s=0.5)
    assert len(made.drafts) == 20
    assert len(server.batches) == 1
    assert max(server.paid.values()) == 1
    assert made.usage.lost == 0


def test_a_kill_between_sending_and_the_id_is_mended_by_the_next_run(generate, server, tmp_path):
    """What is on disk then: the announcement, and nothing of the provider."""
    made = generate(5, **BATCH)
    path = tmp_path / "llm" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    announced = next(i for i, line in enumerate(lines) if json.loads(line)["type"] == "batch")
    path.write_bytes(b"".join(lines[: announced + 1]))
    again = generate(5, **BATCH)
    assert again.drafts == made.drafts
    assert len(server.batches) == 1
    assert again.usage.total.tokens == 5 * (TOKENS_IN + TOKENS_OUT)


def test_a_kill_before_sending_sends_it_then(generate, server, tmp_path):
    made = generate(5, **BATCH)
    path = tmp_path / "llm" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    announced = next(i for i, line in enumerate(lines) if json.loads(line)["type"] == "batch")
    path.write_bytes(b"".join(lines[: announced + 1]))
    server.batches.clear()
    again = generate(5, **BATCH)
    assert again.drafts == made.drafts
    assert again.usage.total.tokens == 5 * (TOKENS_IN + TOKENS_OUT)


@pytest.mark.parametrize("left", [1, 2, 4])
def test_results_half_written_at_a_kill_are_counted_once(left, generate, server, tmp_path):
    made = generate(5, **BATCH)
    path = tmp_path / "llm" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    answers = [i for i, line in enumerate(lines) if json.loads(line)["type"] == "answer"]
    path.write_bytes(b"".join(lines[: answers[left - 1] + 1]) + b'{"type": "ans')
    again = generate(5, **BATCH)
    assert again.drafts == made.drafts
    assert again.usage.total.tokens == 5 * (TOKENS_IN + TOKENS_OUT)
    assert len(server.batches) == 1


def test_an_open_batch_is_taken_up_also_by_single_calls(generate, server, tmp_path):
    generate(3, **BATCH)
    path = tmp_path / "llm" / "journal.jsonl"
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if json.loads(line)["type"] != "answer"]
    path.write_bytes(b"".join(line for line in lines if not json.loads(line).get("done")))
    made = generate(4, "anthropic")
    assert len(made.drafts) == 16
    assert max(server.paid.values()) == 1


def test_a_refused_key_and_a_dead_server_say_so(generate, server):
    server.script = per_document({"poll": ["status 401"]})
    with pytest.raises(ProviderRefused, match="refuses the key"):
        generate(2, **BATCH)
    server.script = per_document({"poll": ["status 500"] * 9})
    with pytest.raises(ProviderFailed, match="500"):
        generate(2, **BATCH, max_retries=2)
    server.script = lambda prompt, nth: None
    assert len(generate(2, **BATCH).drafts) == 8
    assert len(server.batches) == 1
