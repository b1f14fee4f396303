"""The cap holds exactly, whatever fails and however many calls are under way."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from llm_server import TOKENS_IN, TOKENS_OUT, LLMServer, passages, per_document, settings_for
from shoptalk.errors import ProviderFailed, SettingsError
from shoptalk.llm.journal import Usage, open_journal
from shoptalk.llm.spending import Prices
from shoptalk.queries.llm.jobs import make_jobs
from shoptalk.queries.llm.prompting import Prompts
from shoptalk.records import Passage
from shoptalk.settings import LLMSettings

ONE = TOKENS_IN + TOKENS_OUT


def worst_of_one(server: LLMServer, **values) -> Usage:
    settings = settings_for(server, **values)
    prompts = Prompts(settings, [])
    jobs = make_jobs(passages(1), settings)
    return Prices(settings).worst(prompts.request(jobs[0].slots, jobs[0].passages, [], 0))


def highest(folder) -> tuple[int, Decimal]:
    """The most tokens and money that were reserved and spent at any moment, replayed from the journal with plain sums."""
    spent: dict[str, tuple[int, Decimal]] = {}
    most = (0, Decimal(0))
    for line in (folder / "journal.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["type"] in ("begin", "answer"):
            spent[row["call"]] = (row["tokens_in"] + row["tokens_out"], Decimal(row["cost"]))
        elif row["type"] == "free":
            del spent[row["call"]]
        most = (
            max(most[0], sum(tokens for tokens, _ in spent.values())),
            max(most[1], sum((cost for _, cost in spent.values()), Decimal(0))),
        )
    return most


@pytest.mark.parametrize("concurrency", [1, 3, 16])
@pytest.mark.parametrize("events", [{}, {"W3x": ["status 500"], "W5x": ["cut"], "W6x": ["hang 1"], "W8x": ["garbage"]}])
def test_the_cap_in_tokens_holds_at_every_moment_and_is_used_up(concurrency, events, generate, server, tmp_path):
    server.delay_s = 0.01
    server.script = per_document(events)
    worst = worst_of_one(server).tokens + 3  # other numbers of digits
    cap = worst + 10 * ONE + 2 * worst * bool(events)
    made = generate(30, concurrency=concurrency, max_total_tokens=cap, timeout_s=0.6)
    most, _ = highest(tmp_path / "llm")
    assert most <= cap
    assert made.usage.total.tokens <= cap
    assert server.n_paid * ONE <= cap
    if not events:
        assert cap - made.usage.total.tokens < worst  # not one more call would have fitted
        assert server.n_paid == 11
    left_out = {rejected.item for rejected in made.rejected if rejected.check == "spending-cap"}
    asked = {draft.passage_ids[0] for draft in made.drafts}
    assert left_out
    assert not left_out & asked
    assert len(left_out | asked | {r.item.split(":")[0] for r in made.rejected}) == 30


def test_the_cap_in_money_holds_across_runs_and_a_higher_one_goes_on(generate, server, tmp_path):
    worst = worst_of_one(server).cost
    one = Decimal(TOKENS_IN + 4 * TOKENS_OUT) / 1_000_000
    cap = float(worst + one * 4 + Decimal("0.000004"))
    first = generate(12, max_cost=cap, concurrency=5)
    again = generate(12, max_cost=cap, concurrency=5)
    assert highest(tmp_path / "llm")[1] <= Decimal(str(cap))
    assert server.n_paid == first.usage.calls == 5
    assert (again.usage.calls, again.drafts) == (0, first.drafts)
    more = generate(12, max_cost=1.0)
    assert len(more.drafts) == 48
    assert server.n_paid == 12


def test_a_cap_below_one_call_starts_none(generate, server):
    made = generate(4, max_total_tokens=100)
    assert server.bodies == []
    assert {rejected.check for rejected in made.rejected} == {"spending-cap"}


def test_calls_of_unknown_end_count_at_their_worst_and_refused_ones_not_at_all(generate, server):
    worst = worst_of_one(server)
    server.script = lambda prompt, nth: "hang 2"
    with pytest.raises(ProviderFailed, match=r"no answer within llm\.timeout_s"):
        generate(1, timeout_s=0.3, max_retries=2)
    server.script = lambda prompt, nth: "status 500"
    with pytest.raises(ProviderFailed, match="500"):
        generate(1, max_retries=2)
    server.script = lambda prompt, nth: None
    made = generate(1)
    assert made.usage.total.tokens == 3 * worst.tokens + ONE


def test_a_batch_keeps_the_cap_too(generate, server, tmp_path):
    worst = worst_of_one(server, provider="anthropic").tokens + 3
    made = generate(60, "anthropic", batch=True, batch_poll_s=0.01, max_total_tokens=2 * worst)
    assert highest(tmp_path / "llm")[0] <= 2 * worst
    assert len(made.drafts) >= 12
    assert len(server.batches) > 1  # what the first ones left was used
    assert "spending-cap" in {rejected.check for rejected in made.rejected}


@pytest.mark.parametrize(
    "text", ["plain words", "Ünïcödé ßtraße", "返金には領収書が必要です。", "ﷺ" * 50, "🩺" * 40, "a" * 3000]
)
def test_the_worst_case_is_above_what_real_tokenizers_make(text, server):
    from transformers import AutoTokenizer

    from shoptalk.models.finding import find_model
    from shoptalk.settings import BUILTIN_MODEL

    settings = settings_for(server)
    job = make_jobs([Passage("p", text)], settings)[0]
    request = Prompts(settings, []).request(job.slots, job.passages, [], 0)
    tokenizer = AutoTokenizer.from_pretrained(find_model(BUILTIN_MODEL).path)
    n_bytes_after_nfkc = len(request.wire)
    assert n_bytes_after_nfkc >= len(tokenizer(request.system + request.user)["input_ids"])
    assert Prices(settings).worst(request).tokens_in > n_bytes_after_nfkc


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_cost": 1.0}, "needs llm.price_in"),
        ({"max_cost": 1.0, "price_in": 1.0}, "needs llm.price_in and llm.price_out"),
        ({"model": ""}, "llm.model is empty"),
        ({"batch": True}, "anthropic alone"),
    ],
)
def test_settings_that_do_not_fit_together(values, says):
    with pytest.raises(SettingsError, match=says):
        LLMSettings(**{"provider": "openai", "model": "m", **values})


def test_the_journal_adds_up_exactly(tmp_path):
    price = Prices(LLMSettings(price_in=0.1, price_out=0.3))
    with open_journal(tmp_path) as journal:
        for i in range(200):
            journal.answer(journal.begin(f"k{i}", price.usage(7, 1)), f"k{i}", "{}", price.usage(7, 1), sync=False)
        assert journal.spent.cost == Decimal(200) * (7 * Decimal("0.1") + Decimal("0.3")) / 1_000_000
