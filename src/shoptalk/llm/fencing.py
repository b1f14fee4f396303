"""Documents are data: how a text of strangers may stand in a prompt.

It stands behind a mark that it cannot hold, without the marks that chat templates are made of and without invisible
characters. Source: Greshake et al. 2023 (indirect prompt injection); Hines et al. 2024 (spotlighting).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

FENCE = "DOCFENCE-"
# What chat templates of open models are made of; a server would read it as the end of our message.
_TEMPLATE_MARKS = re.compile(
    r"<\|(?=[\w|])|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]|<</?SYS>>|"
    r"</?(?:s|bos|eos|start_of_turn|end_of_turn|pad|unk|think|tool_call)>|"
    r"<｜|<(?=[\w ]*(?:begin|end)[\w ]*of[\w ]*sentence)",
    re.IGNORECASE,
)
# Characters nobody sees: tags (used to smuggle text), direction overrides, zero-width spaces. Joiners stay: scripts need them.
_UNSEEN = re.compile(
    r"[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff\u00ad\x00-\x08\x0b-\x1f\x7f]"
)
_JOINERS = re.compile(r"[\u200c\u200d]")


def defused(text: str) -> str:
    """The text as it may stand in a prompt: no marks of chat templates, no invisible characters; else as it was."""
    return _TEMPLATE_MARKS.sub(lambda mark: mark[0][0] + " " + mark[0][1:], _UNSEEN.sub("", text))


def seen(text: str) -> str:
    """The text as a person sees it, on one form: for comparing, not for showing."""
    return unicodedata.normalize("NFKC", _JOINERS.sub("", _UNSEEN.sub("", text)))


def fence_for(*texts: str) -> str:
    """A mark that none of the texts can hold, since it follows from all of what they say."""
    digest = hashlib.sha256("\x1f".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{FENCE}{digest[:16]}"
