"""What is asked and what came back, whatever it is about and whoever is asked."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_MOST_STARTS = 50
_TOKENS_AN_ITEM, _TOKENS_AROUND = 40, 20


@dataclass(frozen=True)
class Request:
    """One call: two messages, the answer's JSON schema and the limit on its tokens. `key` names it in the journal.

    answer: what the answer is a list of, as the provider is told; n_items: how long that list is to be.
    """

    system: str
    user: str
    schema: Mapping[str, Any]
    answer: str
    n_items: int
    answer_tokens: int
    key: str

    @cached_property
    def wire(self) -> bytes:
        """All bytes that can become prompt tokens; some tokenizers normalise first, which can make a text longer."""
        text = f"{self.system}{self.user}{self.schema}"
        forms = (text, unicodedata.normalize("NFKC", text))
        return max((form.encode("utf-8", "surrogatepass") for form in forms), key=len)

    @property
    def likely_tokens(self) -> int:
        """About how long the answer will be."""
        return min(self.answer_tokens, _TOKENS_AN_ITEM * self.n_items + _TOKENS_AROUND)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, in the same form from every provider. `counted`: tokens in and out, where the provider counts."""

    text: str
    refusal: str = ""
    truncated: bool = False
    too_long: bool = False
    counted: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a part of an answer, or a whole one, cannot be used; or why there is none."""

    check: str
    reason: str
    text: str = ""


def json_object(text: str, name: str) -> dict[str, Any] | None:
    """The JSON object in an answer, also within a code fence or among words; of several, the one that holds `name`."""
    text = _THOUGHT.sub("", text)
    decoder = json.JSONDecoder()
    first: dict[str, Any] | None = None
    at = text.find("{")
    for _ in range(_MOST_STARTS):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
            value = None
        if isinstance(value, dict):
            if name in value:
                return value
            first = first or value
        at = text.find("{", end)
    return first
