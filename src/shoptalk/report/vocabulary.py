"""The team's own words as the page shows them: what the base model hears, what is found before and after, how far each moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.wording import count, plain, signed

CARDS = 6
IN_RESULT = 20
_UNCOVERED = 40
_VISIBLE = 0.0005
_TITLE_CHARS = 110


@dataclass(frozen=True)
class Move:
    """How near a term is to its own passages before and after, in percent of the drawing's width. label: in words."""

    before: float
    after: float
    zero: float
    tone: str
    label: str


@dataclass(frozen=True)
class Found:
    """A passage that a term finds: the last heading, the headings above it, and whether it is one of the term's own."""

    title: str
    above: str
    own: bool


@dataclass(frozen=True)
class Shown:
    """A term. means: (long form, what says so); why_own: which passages are its own, in words."""

    text: str
    means: tuple[tuple[str, str], ...]
    uses: str
    hears: tuple[str, ...]
    before: tuple[Found, ...]
    after: tuple[Found, ...]
    places: tuple[int, int]
    move: Move
    change: float
    why_own: str
    training: str


@dataclass(frozen=True)
class Story:
    """The section. asked, said, uncovered: terms in training queries, only in training positives, and in neither."""

    cards: tuple[Shown, ...]
    rest: tuple[Shown, ...]
    found: int
    asked: int
    said: int
    uncovered: int
    names: tuple[str, ...]


def tell(run: Artifacts) -> Story | None:
    """The section's content; None where no terms were found (scored pairs have no documents)."""
    told = run.vocabulary
    if not told["found"]:
        return None
    shown = tuple(_shown(row, move) for row, move in zip(told["terms"], _moves(told["terms"]), strict=True))
    uncovered = len(told["uncovered"])
    if run.redacted:  # a card is made of texts
        return Story(
            (), shown, told["found"], told["asked"], told["found"] - told["asked"] - uncovered, uncovered, ()
        )  # fmt: skip
    return Story(
        shown[:CARDS], shown[CARDS:], told["found"], told["asked"], told["found"] - told["asked"] - uncovered, uncovered,
        tuple(told["uncovered"][:_UNCOVERED]),
    )  # fmt: skip


def in_result(run: Artifacts) -> list[dict[str, Any]]:
    """The most changed terms for result.json."""
    return [
        {
            "term": row["text"], "kind": row["kind"], "means": [meaning["text"] for meaning in row["meanings"]],
            "base_hears": row["hears"], "nearness": {"base": row["before"]["near"], "tuned": row["after"]["near"]},
            "place": {"base": row["before"]["place"], "tuned": row["after"]["place"]},
            "training": row["coverage"],
        }
        for row in run.vocabulary["terms"][:IN_RESULT]
    ]  # fmt: skip


def _moves(rows: Sequence[Mapping[str, Any]]) -> list[Move]:
    """All terms on one scale that holds zero: as near as to any other text."""
    ends = [0.0, *(row[side]["near"] for row in rows for side in ("before", "after"))]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float) -> float:
        return round(3 + 94 * float(value - low) / float(span), 2)

    return [Move(at(row["before"]["near"]), at(row["after"]["near"]), at(0.0), _tone(row), _label(row)) for row in rows]


def _tone(row: Mapping[str, Any]) -> str:
    """Worse is what moved away and whose own passages stand lower for it; moving away in first place harms nothing."""
    if abs(row["change"]) < _VISIBLE:
        return ""
    if row["change"] > 0:
        return "good"
    return "bad" if row["after"]["place"] > row["before"]["place"] else ""


def _label(row: Mapping[str, Any]) -> str:
    return f"nearness to its own passages {plain(row['before']['near'])} before, {plain(row['after']['near'])} after"


def _shown(row: Mapping[str, Any], move: Move) -> Shown:
    labelled, coverage = row["labelled"], row["coverage"]
    return Shown(
        text=row["text"],
        means=tuple((meaning["text"], _evidence(meaning, labelled)) for meaning in row["meanings"]),
        uses=f"{count(row['count'], 'time')} in {count(row['documents'], 'document')}",
        hears=tuple(row["hears"]),
        before=_found(row["before"]),
        after=_found(row["after"]),
        places=(row["before"]["place"], row["after"]["place"]),
        move=move,
        change=row["change"],
        why_own=_why_own(row),
        training=f"{count(coverage['queries'], 'training query')}, {count(coverage['positives'], 'training passage')}",
    )


def _why_own(row: Mapping[str, Any]) -> str:
    if not row["labelled"]:
        return "those that use it most"
    asked = f"the {row['labelled']:,} that training queries with it point to"
    return f"{asked}, and those that write out “{row['meant']}”" if row["meant"] else asked


def _evidence(meaning: Mapping[str, Any], labelled: int) -> str:
    if meaning["defined"]:
        return f"defined {count(meaning['defined'], 'time')}"
    if labelled and meaning["positives"]:
        return f"written out in {meaning['positives']:,} of the {labelled:,} passages its training queries point to"
    return f"written out {count(meaning['uses'], 'time')}; the initials fit"


def _found(side: Mapping[str, Any]) -> tuple[Found, ...]:
    found = []
    for hit in side["found"]:
        above, _, last = " ".join(hit["title"].split()).rpartition(" > ")
        above = above.replace(" > ", " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ")
        found.append(Found(_short(last), _short(above), hit["own"]))
    return tuple(found)


def _short(text: str) -> str:
    return text if len(text) <= _TITLE_CHARS else f"{text[: _TITLE_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"


def summary(story: Story) -> str:
    """The section in one sentence: the term that came nearest to its own passages, if any did."""
    best = max(story.cards, key=lambda one: one.change, default=None)
    if best is None or best.move.tone != "good":
        return ""
    first = f"“{best.text}” moved the most toward what the team means by it: {signed(best.change)}"
    if best.places[1] < best.places[0]:
        return f"{first}; its first own passage went from place {best.places[0]:,} to {best.places[1]:,}."
    return f"{first}."
