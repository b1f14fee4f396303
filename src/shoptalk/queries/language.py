"""Which language a text is in, as far as its length lets one tell. Engine: py3langid (Lui and Baldwin 2012)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache, lru_cache
from typing import Any

from shoptalk.records import Passage

# The languages that people write documents in; without them "hello there" is Sotho.
_LIKELY = (
    "ar bg bn ca cs da de el en es et fa fi fr gu he hi hr hu id is it ja ka kn ko lt lv mk ml mr ms nl no pa pl pt ro ru sk sl "
    "sq sr sv ta te th tr uk ur vi zh"
).split()
_LONG_ENOUGH = 20
# In nats. Of the 7,166 English queries of techfaq and medquad one is taken for another language at this margin.
_CLEAR = 12.0
_SCRIPTS = (
    "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM",
    "GUJARATI", "GURMUKHI", "THAI", "GEORGIAN", "ARMENIAN", "HANGUL", "HIRAGANA", "KATAKANA", "CJK",
)  # fmt: skip
_SAME_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}  # Japanese mixes them; a query may be in one of them alone


def language_of(passage: Passage) -> str:
    """ISO 639-1 code of a passage's language: what ingest found, else a guess from the text, else ""."""
    return passage.language or guess_language(passage.text)


def is_english(passage: Passage) -> bool:
    """Whether English templates may be used for a passage."""
    return language_of(passage) == "en"


@lru_cache(maxsize=200_000)
def guess_language(text: str) -> str:
    """ISO 639-1 code of the likeliest language, "" for a text that is too short to tell."""
    if sum(map(str.isalpha, text[:200])) < _LONG_ENOUGH:
        return ""
    return str(_identifier().classify(text[:1_000])[0])


def is_off_language(text: str, wanted: str) -> str:
    """The language that a short text is clearly in instead of the wanted one, or ""; "" also when nothing is clear."""
    if not wanted or sum(map(str.isalpha, text)) < _LONG_ENOUGH or len(text.split()) < 4:
        return ""
    ranked = dict(_identifier().rank(text))
    best = max(ranked, key=lambda name: ranked[name])
    return best if wanted in ranked and ranked[best] - ranked[wanted] > _CLEAR else ""


def main_script(text: str) -> str:
    """The script that most letters of a text are in, by its Unicode name ("LATIN", "CJK", ...), or ""."""
    found: Counter[str] = Counter()
    for char in text[:1_000]:
        if char.isalpha():
            name = unicodedata.name(char, "").split(" ")[0]
            if name in _SCRIPTS:
                found[_SAME_SCRIPT.get(name, name)] += 1
    return found.most_common(1)[0][0] if found else ""


@cache
def _identifier() -> Any:
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    identifier.set_languages(_LIKELY)
    return identifier
