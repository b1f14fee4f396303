"""What the model was trained on, as the page shows it: made queries and what became of them, what a language model took,
weak labels, hard negatives, the second round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.records import Passage
from shoptalk.report.artifacts import Artifacts
from shoptalk.report.cost import money
from shoptalk.report.hard_negatives import HardNegatives, hard_negatives
from shoptalk.report.wording import count, spoken

_KINDS = {"faq": "FAQ", "path": "heading path", "key-phrase": "key phrase", "how-to": "how-to"}
_CHECKS = {
    "duplicate": "same text as another",
    "too-generic": "too generic",
    "copied": "copied from its passage",
    "off-language": "in another language",
    "round-trip": "its passage was not found",
    "near-duplicate": "nearly the same as another",
    "per-passage": "its passage had enough queries",
    "llm-judge": "scored low by the language model",
    "review": "turned down in the review",
}
_TEXT_CHARS = 220


@dataclass(frozen=True)
class Sample:
    """A made query, the title of its passage, and why it was turned down ("" when it was kept)."""

    query: str
    place: str
    why: str


@dataclass(frozen=True)
class KindRow:
    """What became of the drafts of a kind (or of all). rejected: (reason in words, how many), the most frequent first."""

    name: str
    drafted: int
    kept: int
    rejected: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]
    turned_down: tuple[Sample, ...]


@dataclass(frozen=True)
class Taken:
    """What a language model took. rows: (what, this run, all runs); notes: sentences on what the rows leave out."""

    words: str
    rows: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrainingData:
    """The section. total: all kinds together, where there is more than one."""

    kinds: tuple[KindRow, ...]
    total: KindRow | None
    thresholds: tuple[str, ...]
    taken: Taken | None
    weak: str
    negatives: HardNegatives
    second_round: str
    second_negatives: str


def gather(run: Artifacts) -> TrainingData | None:
    """The section's content; None for scored pairs, which are given as they are."""
    if run.is_similarity:
        return None
    kinds = _kinds(run)
    return TrainingData(
        kinds=kinds,
        total=_total(kinds) if len(kinds) > 1 else None,
        thresholds=tuple(_thresholds(run.yields)) if kinds else (),
        taken=_taken(run),
        weak=_weak(run.audit),
        negatives=hard_negatives(run),
        second_round=run.training.get("second_round", {}).get("words", ""),
        second_negatives=run.second_mining.get("sentence", ""),
    )


# Made queries


def _kinds(run: Artifacts) -> tuple[KindRow, ...]:
    kinds = run.yields.get("kinds", {})
    samples = [row for kind in kinds.values() for side in ("kept", "rejected") for row in kind["samples"][side]]
    passages = run.passages({row["passage_id"] for row in samples})
    return tuple(
        KindRow(
            _KINDS.get(name, spoken(name)),
            kind["drafted"],
            kind["kept"],
            _reasons(kind["rejected"]),
            tuple(_sample(row, passages) for row in kind["samples"]["kept"]),
            tuple(_sample(row, passages) for row in kind["samples"]["rejected"]),
        )
        for name, kind in kinds.items()
    )


def _total(kinds: Sequence[KindRow]) -> KindRow:
    together: dict[str, int] = {}
    for reason, n in (entry for kind in kinds for entry in kind.rejected):
        together[reason] = together.get(reason, 0) + n
    drafted, kept = sum(kind.drafted for kind in kinds), sum(kind.kept for kind in kinds)
    return KindRow("all", drafted, kept, _sorted(together), (), ())


def _reasons(rejected: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return _sorted({_CHECKS.get(check, spoken(check)): n for check, n in rejected.items()})


def _sorted(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _sample(row: Mapping[str, str], passages: Mapping[str, Passage]) -> Sample:
    passage = passages.get(row["passage_id"])
    place = (passage.title or passage.source if passage else "") or row["passage_id"]
    why = f"{_CHECKS.get(row['check'], spoken(row['check']))}: {row['reason']}" if "check" in row else ""
    return Sample(
        _short(row["query"]),
        _short(place.replace(" > ", " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ")),
        _short(why),
    )


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT_CHARS else f"{flat[: _TEXT_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"


def _thresholds(yields: Mapping[str, Any]) -> list[str]:
    """What a made query has to pass, in the order of the checks; checks that are switched off are left out."""
    wanted = yields["thresholds"]
    k, copied, generic = wanted["round_trip_k"], wanted["copied_words"], wanted["generic_share"]
    words = ["No two kinds make the same text, and no text is made for places apart."]
    if copied:
        words.append(f"Fewer than {count(copied, 'word')} in a row are copied from the passage.")
    if wanted["off_language"]:
        words.append("It is in the language that is wanted, which is its passage's unless another was asked for.")
    if k:
        words.append(f"The base model or keyword search (BM25) finds its passage among the first {k:,}.")
    if k and generic < 1:
        words.append(f"The passage at place {k:,} scores less than {_percent(generic)} of what its own does.")
    words += [
        f"Queries of one passage share less than {_percent(wanted['near_duplicate'])} of their words, rare words counting more.",
        f"Offline, at most {count(wanted['per_passage'], 'query')} are made for one passage.",
    ]
    if "llm_judge" in yields:
        words.append(f"The language model gives each of its four scores {wanted['judge_min']} of 5 or more.")
    return words


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


# A language model


def _taken(run: Artifacts) -> Taken | None:
    usage, judge, llm = run.usage, run.yields.get("llm_judge"), run.settings.llm
    if not usage and not judge:
        return None
    known = usage["cost_known"] if usage else bool(llm.price_in or llm.price_out)
    notes = [_judging(judge, known)] if judge else []
    if not known:
        local = (usage or {}).get("provider") == "transformers"
        notes.append("Nothing was paid: the model ran on this machine." if local else "Cost unknown: no prices given.")
    if not usage:
        return Taken(f"Queries were judged by {llm.model} ({llm.provider}).", (), tuple(notes))
    if usage["lost"]:
        notes.append(
            f"{count(usage['lost'], 'call')} ended without an answer and may have been paid; all runs count the most it can be."
        )
    words = (
        f"Queries were written by {usage['model']} ({usage['provider']}): {count(usage['calls'], 'call')} in this run, "
        f"{count(usage['retries'], 'retry')}, {count(usage['cached'], 'answer')} from the cache, which cost nothing again."
    )
    sides = usage["this_run"], usage["all_runs"]
    rows = [("Tokens sent", "tokens_in"), ("Tokens written", "tokens_out")]
    table = [(name, *(f"{side[key]:,}" for side in sides)) for name, key in rows]
    if known:
        table.append(("Cost", *(money(side["cost"]) for side in sides)))
    return Taken(words, tuple((name, one, both) for name, one, both in table), tuple(notes))


def _judging(judge: Mapping[str, Any], known: bool) -> str:
    cost = f", cost {money(judge['cost'])}" if known else ""
    words = f"Judging the queries took {judge['tokens_in']:,} tokens sent and {judge['tokens_out']:,} written{cost}."
    if judge["unjudged"]:
        words += f" {count(judge['unjudged'], 'query')} got no usable scores and {'was' if judge['unjudged'] == 1 else 'were'} kept."
    return words


# Weak labels


def _weak(audit: Mapping[str, Any]) -> str:
    pairs = audit.get("weak_training_pairs", 0)
    clicks = [f"{n:,} {split}" for split, n in audit.get("click_queries", {}).items() if n]
    words = [f"{pairs:,} of them weigh less than 1 in the loss: they are guesses, such as clicks."] if pairs else []
    return " ".join([*words, *([f"Queries from a click log: {', '.join(clicks)}."] if clicks else [])])
