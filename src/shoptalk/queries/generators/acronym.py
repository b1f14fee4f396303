"""Acronyms that the texts explain: what they stand for, and the short form where a passage has the long one, or the reverse.

A team writes "PTO" and its policy says "paid time off"; no general model can know, and the corpus says it somewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import MOST_PASSAGES, says_something
from shoptalk.queries.generators.key_phrase import best_phrases
from shoptalk.queries.generators.markup import without_markup
from shoptalk.queries.language import is_english
from shoptalk.records import Passage
from shoptalk.vocabulary.acronyms import definitions, expansions

_MOST_A_PASSAGE = 2
# An acronym that very many passages use (the company's own name) tells none of them from the others.
_MOST_USED = 10
_MOST_USED_SHARE = 0.02
_WORD = re.compile(r"\w+(?:[-&/]\w+)*")


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The question for the expansion, at the passage that gives it; else the form that the passage does not use, with its subject."""
    known = {short: next(iter(forms)) for short, forms in expansions(p.content for p in passages).items()}
    used = Counter(word for passage in passages for word in set(_WORD.findall(passage.text)) if word in known)
    most = max(_MOST_USED, _MOST_USED_SHARE * len(passages))
    known = {short: long for short, long in known.items() if used[short] <= most}
    if not known:
        return
    swaps = _swaps(known)
    shared = Counter(passage.title for passage in passages)
    for passage, phrase in zip(passages, best_phrases(passages), strict=True):
        defined = dict.fromkeys(short for short, _ in definitions(passage.text) if short in known)
        if is_english(passage):
            for short in list(defined)[:1]:
                yield Draft(f"What does {short} stand for?", (passage.passage_id,), "acronym", language="en")
        wide = shared[passage.title] > MOST_PASSAGES
        heading = "" if wide else passage.title.split(" > ")[-1]
        yield from _swapped(passage, heading, phrase, swaps, known, defined)


def _swaps(known: Mapping[str, str]) -> re.Pattern[str]:
    """Finds every short form as it is written and every long form in any case, the longest first."""
    shorts = "|".join(re.escape(short) for short in sorted(known, key=len, reverse=True))
    longs = "|".join(re.escape(long).replace("\\ ", r"\s+") for long in sorted(known.values(), key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:(?P<short>{shorts})|(?P<long>(?i:{longs})))(?!\w)")


def _swapped(
    passage: Passage,
    heading: str,
    phrase: str,
    swaps: re.Pattern[str],
    known: Mapping[str, str],
    defined: Mapping[str, None],
) -> Iterator[Draft]:
    short_of = {" ".join(long.casefold().split()): short for short, long in known.items()}
    used: dict[str, list[str]] = {}
    for found in swaps.finditer(f"{heading}\n{passage.text}"):
        short = found.group("short") or short_of[" ".join(found.group("long").casefold().split())]
        used.setdefault(short, []).append(found.group())
    made = 0
    for short, found_forms in used.items():
        forms = {form == short for form in found_forms}
        about = len(found_forms) > 1 or found_forms[0] in heading
        if len(forms) > 1 or short in defined or made == _MOST_A_PASSAGE or not about:
            continue
        other, present = (known[short], short) if True in forms else (short, known[short])
        text, cut = _with_subject(other, present, heading, phrase)
        if text:
            made += 1
            yield Draft(without_markup(text), (passage.passage_id,), "acronym", cut)


def _with_subject(other: str, present: str, heading: str, phrase: str) -> tuple[str, str]:
    """The other form in the place of the present one in the heading, else before the heading or phrase; with what is to be cut."""
    pattern = re.compile(rf"(?<!\w){re.escape(present)}(?!\w)", re.IGNORECASE)
    if pattern.search(heading) and len(heading.split()) >= 2 and pattern.sub("", heading).strip(" :-"):
        return pattern.sub(lambda _: other, heading), heading
    if heading and says_something(heading):
        return f"{other} {heading}", heading
    return (f"{other} {phrase}", "") if phrase and present.casefold() not in phrase else ("", "")
