"""Text of a document as a person would type it: one line, without the marks of Markdown."""

from __future__ import annotations

import re

_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_EMPHASIS = re.compile(r"\*{1,3}|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)|`+|~~")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!?|<>])")


def without_markup(text: str) -> str:
    """The text without emphasis, code marks, link targets and backslashes, on one line."""
    text = _EMPHASIS.sub("", _LINK.sub(r"\1", text))
    return " ".join(_ESCAPED.sub(r"\1", text).split())


def in_a_sentence(heading: str) -> str:
    """A heading as it is written within a sentence: "Travel Claims" keeps its capitals, "Late claims" loses its first."""
    others = [word for word in heading.split()[1:] if word[:1].isalpha()]
    name = heading[1:2].isupper() or (others and all(word[:1].isupper() for word in others if len(word) > 3))
    return heading if name else heading[:1].lower() + heading[1:]
