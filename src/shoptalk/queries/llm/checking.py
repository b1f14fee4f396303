"""An answer, checked: which queries can be used, and what is wrong with the others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from shoptalk.llm.fencing import seen
from shoptalk.llm.messages import Fault, Reply, json_object
from shoptalk.queries.llm.guarding import Guard, common_words
from shoptalk.queries.llm.jobs import has_acronym
from shoptalk.queries.llm.prompting import AskedQuery, AskedQueryWithNegatives, answer_model
from shoptalk.retrieval.bm25 import words
from shoptalk.settings import LLMSettings

_NEGATIVE_CHARS = 1_500
_COPIED_WHOLE = 5  # words of a query that stands in the passage as it is


@dataclass(frozen=True, slots=True)
class Accepted:
    """A query that can be used. `slot` is the kind that was asked for, `kind` the kind that it is."""

    slot: str
    kind: str
    text: str
    negatives: tuple[str, ...]


def check_reply(
    reply: Reply | None, slots: Sequence[str], content: str, known: Sequence[str], guard: Guard, settings: LLMSettings
) -> tuple[list[Accepted], list[Fault]]:
    """The usable queries of a reply for the open slots, and the faults of the others.

    reply: None when the body could not be read at all. known: queries that the passage already has.
    """
    if reply is None:
        return [], [Fault("unreadable", "the body of the answer is not what the protocol says")]
    if reply.refusal:
        return [], [Fault("refused", "the model declined", reply.refusal[:200])]
    if reply.too_long:
        return [], [
            Fault("too-long", "the prompt does not fit into the model; make passages shorter (ingest.passage_tokens)")
        ]
    if not reply.text.strip():
        return [], [Fault("empty", "the answer is empty")]
    found = json_object(reply.text, "queries")
    if found is None:
        cut = reply.truncated
        return [], [
            Fault("truncated", "cut off at llm.answer_tokens") if cut else Fault("not-json", "holds no JSON object")
        ]
    try:
        asked = answer_model(settings.negatives).model_validate(found).queries
    except ValidationError as error:
        where = error.errors()[0]
        return [], [Fault("schema", f"{'.'.join(map(str, where['loc']))}: {where['msg']}")]
    if not asked:
        return [], [Fault("empty", "the list of queries is empty")]
    return _check_each(asked, slots, content, known, guard, settings)


def _check_each(
    asked: Sequence[AskedQuery],
    slots: Sequence[str],
    content: str,
    known: Sequence[str],
    guard: Guard,
    settings: LLMSettings,
) -> tuple[list[Accepted], list[Fault]]:
    left = list(slots)
    plain = {_plain(text) for text in known}
    accepted: list[Accepted] = []
    faults: list[Fault] = []
    for query in asked:
        text = tidy(query.text)
        if query.kind not in left:
            faults.append(Fault("not-asked-for", f"a query of kind {query.kind[:30]!r} more than asked for", text))
        elif (fault := check_query(text, content, plain, guard, settings)) is not None:
            faults.append(fault)
        else:
            left.remove(query.kind)
            plain.add(_plain(text))
            negatives, bad = _negatives(query, text, content, guard, settings)
            faults += bad
            accepted.append(Accepted(query.kind, honest_kind(query.kind, text, content), text, negatives))
    return accepted, faults


def check_query(text: str, content: str, known: set[str], guard: Guard, settings: LLMSettings) -> Fault | None:
    """What is wrong with a query for a passage of this content, or None. known: plain forms of queries it already has."""
    said = words(text)
    if not said:
        return Fault("empty", "holds no words", text)
    objection = guard.objection(text)
    if objection is not None:
        return Fault(*objection, text)
    if len(text) > settings.max_query_chars:
        return Fault("over-long", f"{len(text)} characters, more than {settings.max_query_chars}", text)
    if _plain(text) in known:
        return Fault("repeated", "the passage has this query already", text)
    run = longest_shared_run(said, words(seen(content)))
    if run > settings.max_copied_words or (run == len(said) and run >= _COPIED_WHOLE):
        return Fault("copied", f"{run} words in a row stand in the passage", text)
    return None


def _negatives(
    query: AskedQuery, text: str, content: str, guard: Guard, settings: LLMSettings
) -> tuple[tuple[str, ...], list[Fault]]:
    """The usable hard negatives: texts, not the passage itself in part, not the query, nothing planted."""
    if not isinstance(query, AskedQueryWithNegatives):
        return (), []
    kept: dict[str, None] = {}
    faults: list[Fault] = []
    for negative in map(tidy, query.hard_negatives[: settings.negatives]):
        said = words(negative)
        if not said or len(negative) > _NEGATIVE_CHARS or _plain(negative) == _plain(text):
            faults.append(Fault("bad-negative", "empty, over-long or the query itself", negative[:200]))
        elif (objection := guard.objection(negative)) is not None:
            faults.append(Fault(objection[0], f"hard negative: {objection[1]}", negative[:200]))
        elif longest_shared_run(said, words(seen(content))) > max(settings.max_copied_words, len(said) // 2):
            faults.append(Fault("bad-negative", "taken from the passage itself, so it may answer", negative[:200]))
        else:
            kept[negative] = None
    return tuple(kept), faults


def honest_kind(slot: str, text: str, content: str) -> str:
    """The kind that a query is, when it is not what it was asked to be: a good question is kept under its right name."""
    if slot == "paraphrase" and content_words(text) & content_words(content):
        return "natural"
    if slot == "acronym" and not has_acronym(text):
        return "natural"
    if slot == "keywords" and (text.rstrip().endswith(("?", "？")) or len(text.split()) > 8):
        return "natural"
    return slot


def content_words(text: str) -> set[str]:
    """The words that mean something: without common ones and, in scripts with spaces, without the shortest."""
    return {word for word in words(seen(text)) if len(word) > 2} - common_words()


def longest_shared_run(query: Sequence[str], passage: Sequence[str]) -> int:
    """The most words in a row of the query that stand in a row in the passage."""
    joined = f" {' '.join(passage)} "
    best = 0
    for start in range(len(query)):
        while start + best < len(query) and f" {' '.join(query[start : start + best + 1])} " in joined:
            best += 1
    return best


def tidy(text: str) -> str:
    """One line, in one Unicode form, without a number, a bullet or quotes around it."""
    line = " ".join(unicodedata.normalize("NFC", seen_only(text)).split())
    line = re.sub(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+", "", line)
    return line[1:-1].strip() if len(line) > 2 and line[0] in "\"“'" and line[-1] in "\"”'" else line


def seen_only(text: str) -> str:
    """The text without control characters and surrogates, which no query holds."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Co", "Cn") else " " for char in text
    )


def _plain(text: str) -> str:
    return " ".join(words(seen(text)))
