"""Which language a text is in, by py3langid (no network, its model is in the package)."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_FEWEST_LETTERS = 40
_FEWEST_LETTERS_OF_A_PASSAGE = 120
_SAMPLE_CHARS = 2_000
_SAMPLE_CHARS_OF_A_PASSAGE = 600
_NO_LANGUAGE = ("zxx", "und")
_SURE = 0.6
_SURE_OF_ANOTHER = 0.9
_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+|[\d|#*_~<>=+-]+", re.DOTALL)
_NO_LETTERS = re.compile(r"[\W\d_]+")
_DENSE = re.compile("[\u2e80-\uffff]")


def language_of(text: str) -> str:
    """The ISO 639-1 code of a document's language; "" when there is too little text to tell, or no language is likely."""
    prose = _prose(text)
    if _letters(prose) < _FEWEST_LETTERS:
        return ""
    language, probability = _classify(prose)
    return language if probability >= _SURE else ""


def language_of_passage(text: str, document: str) -> str:
    """The language of a passage: its document's, unless it is long and clearly in another one."""
    prose = _prose(text)[:_SAMPLE_CHARS_OF_A_PASSAGE]
    if _letters(prose) < (_FEWEST_LETTERS_OF_A_PASSAGE if document else _FEWEST_LETTERS):
        return document
    language, probability = _classify(prose)
    return language if language == document or probability >= _SURE_OF_ANOTHER else document


def _prose(text: str) -> str:
    """Words only: code, addresses, numbers and marks look like no language or like the wrong one."""
    return " ".join(_NO_PROSE.sub(" ", text[: 4 * _SAMPLE_CHARS]).split())[:_SAMPLE_CHARS]


def _letters(text: str) -> int:
    """Letters, one of a script without spaces counting as three."""
    return len(_NO_LETTERS.sub("", text)) + 2 * len(_DENSE.findall(text))


def _classify(text: str) -> tuple[str, float]:
    language, probability = _identifier().classify(text)
    return ("", 0.0) if language in _NO_LANGUAGE else (str(language), float(probability))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
