"""Acronyms and what they stand for, as the text says it: "long form (SF)" and "SF (long form)".

Source: Schwartz and Hearst 2003, A simple algorithm for identifying abbreviation definitions in biomedical text. Their
matching goes from right to left over letters and knows no language; what is added is that a short form has capitals.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

_BRACKETS = re.compile(r"[(（]([^()（）\n]{2,100})[)）]")
_BEFORE_CHARS = 160
# A long form does not go over the end of a sentence, a bracket or a line.
_END = re.compile(r"[.!?;:](?=\s)|[\n()（）\[\]|\"“”]|,\s")
_SHORT_CHARS = (2, 10)
_SMALL_WORD = 3


@dataclass(frozen=True, slots=True)
class Expansion:
    """What an acronym stands for. `defined`: how often a text says so; `uses`: how often the long form stands in the texts."""

    text: str
    defined: int
    uses: int


@cache
def is_acronym(word: str) -> bool:
    """Whether a word looks like one: 2 to 10 characters, as many capitals as other letters, two of them or one and a digit."""
    word = singular(word)
    if not _SHORT_CHARS[0] <= len(word) <= _SHORT_CHARS[1] or not word[0].isalnum():
        return False
    letters = [letter for letter in word if letter.isalpha()]
    capitals = sum(letter.isupper() for letter in letters)
    digits = any(letter.isdigit() for letter in word)
    return 2 * capitals >= len(letters) and (capitals >= 2 or (capitals == 1 and digits and len(word) > 2))


def singular(word: str) -> str:
    """LLMs and LLM's as LLM; anything else as it is."""
    for ending in ("'s", "’s", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 1 and word[-len(ending) - 1].isupper():
            return word[: -len(ending)]
    return word


def definitions(text: str) -> Iterator[tuple[str, str]]:
    """(short form, long form) as often as the text defines one."""
    for found in _BRACKETS.finditer(text):
        inside = found.group(1).strip(" '\"“”’‘*_`")
        before = _clause(text[max(0, found.start() - _BEFORE_CHARS) : found.start()])
        inside = re.split(r"[;,]\s|\s(?:or|oder|ou|o)\s", inside)[0].strip()
        if is_acronym(inside):
            short = singular(inside)
            words = before.split()[-min(len(short) + 5, 2 * len(short)) :]
            long = match(short, " ".join(words))
        else:
            short = singular(before.split()[-1].strip("*_`'\"“”’‘")) if before.split() else ""
            long = match(short, inside) if is_acronym(short) and len(inside.split()) <= len(short) + 2 else ""
            long = inside if long and len(long) >= 0.8 * len(inside) else ""
        if long and _plausible(short, long):
            yield short, _tidy(long)


def match(short: str, text: str) -> str:
    """The end of `text` that `short` stands for, or "".

    The words whose first letters spell it, small words in between allowed ("Freedom of Information Act"); else Schwartz and
    Hearst's shortest end that holds its letters in order, its first letter at the start of a word.
    """
    letters = [letter.casefold() for letter in short if letter.isalnum()]
    # Small words first as mere filling ("Office of Human Resources (OHR)"), then as letters too ("Freedom of Information Act").
    return _by_initials(letters, text, False) or _by_initials(letters, text, True) or _by_letters(letters, text)


def _by_initials(letters: list[str], text: str, small_words: bool) -> str:
    words, left = text.split(), list(letters)
    start = len(words)
    while left and start > 0:
        start -= 1
        word = words[start].casefold()
        first = word.lstrip("\"'“‘")[:1]
        counts = small_words or len(word) > _SMALL_WORD or not words[start].islower()
        if first == left[-1] and counts:
            left.pop()
        elif len(word) > _SMALL_WORD or start == len(words) - 1:
            return ""
    return "" if left else " ".join(words[start:])


def _by_letters(letters: list[str], text: str) -> str:
    place, lowered = len(text), text.casefold()
    if len(lowered) != len(text):
        return ""
    for index in range(len(letters) - 1, -1, -1):
        place = lowered.rfind(letters[index], 0, place)
        while index == 0 and place > 0 and lowered[place - 1].isalnum():
            place = lowered.rfind(letters[0], 0, place)
        if place < 0:
            return ""
    return text[lowered.rfind(" ", 0, place + 1) + 1 :]


def expansions(texts: Iterable[str]) -> dict[str, dict[str, int]]:
    """acronym -> long form -> how often it is defined so, most often first; spellings that differ in case or plural are one."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        if "(" in text or "（" in text:
            for short, long in definitions(text.replace("’", "'")):
                found[short][long] += 1
    return {short: _merged(forms) for short, forms in found.items()}


def _clause(text: str) -> str:
    ends = [found.end() for found in _END.finditer(text)]
    return text[ends[-1] :].strip() if ends else text.strip()


def _plausible(short: str, long: str) -> bool:
    words = long.split()
    heavy = [word for word in words if len(word) > _SMALL_WORD]
    return (
        len(long) > len(short) + 2
        and len(words) <= min(len(short) + 5, 2 * len(short))
        and len(heavy) <= len(short)
        and len(words[0]) > 1
        and (len(words[0]) > _SMALL_WORD or not words[0].islower() or len(words) == 1)
        and short.casefold() not in (word.casefold() for word in words)
        and not any(mark in long for mark in "{}<>=|\\/@#")
        and not long[0].isdigit()
        and (len(words) > 1 or (len(long) >= 2 * len(short) + 2 and long[1:].islower()))
    )


def _tidy(long: str) -> str:
    return " ".join(long.split()).strip(" -–—*_`'\"“”’‘,")


def _merged(forms: Counter[str]) -> dict[str, int]:
    """Long forms, those that differ in case or plural as one; the end of another one ("Act" of "Social Security Act") is that one."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for form, n in forms.items():
        spellings[plain_form(form)][form] += n
    for plain in sorted(spellings, key=len):
        whole = next((other for other in spellings if other.endswith(f" {plain}")), None)
        if whole is not None:
            cut = spellings.pop(plain)
            spellings[whole][max(spellings[whole], key=lambda form: (spellings[whole][form], form))] += cut.total()
    totals = {max(same, key=lambda form: (same[form], form)): same.total() for same in spellings.values()}
    most = max(totals.values())
    return dict(
        sorted(((form, n) for form, n in totals.items() if 10 * n >= most), key=lambda entry: (-entry[1], entry[0]))
    )


def plain_form(text: str) -> str:
    """For comparing: case folded, hyphens as spaces, every word without its plural or possessive s."""
    words = text.casefold().replace("-", " ").replace("'s", "").replace("s'", "s").split()
    return " ".join(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words
    )
