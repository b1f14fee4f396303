"""Markdown, with the title from its front matter or first heading.

The patterns are written so that no text makes them take quadratic time; code keeps its tags, brackets and braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from shoptalk.corpus.readers import Document, decode

_FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n(?=\s*[\w\"'.-]+[ \t]*:|---)(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_TARGET = r"\((?:[^()\s]|\([^()\s]{0,200}\))*(?:\s{1,9}\"[^\"]*\")?\)"
_IMAGE = re.compile(rf"!\[([^\[\]]*)\]{_TARGET}")
_LINK = re.compile(rf"\[([^\[\]]+)\]{_TARGET}")
_CODE_OR_MARK = re.compile(r"(`[^`\n]+`)|</?[a-zA-Z][^<>\n]*>|\{[%{](?:(?!\{[%{]).)*?[%}]\}|\{:[^{}\n]*\}", re.DOTALL)
_FENCE = re.compile(r"^\s*(?:(`{3,})[^`\n]*|(~{3,}).*)$")
_UNDERLINE = re.compile(r"^ {0,3}(={2,}|-{3,})\s*$")
_NO_HEADING = re.compile(r"^(?:\s{4,}|\s*(?:[-*+>|]|\d+[.)]\s|=+\s*$|-+\s*$))")
_LONGEST_HEADING = 200
_EMPHASIS = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A line like "## Name", from `start` to `end` in its text."""

    level: int
    name: str
    start: int
    end: int


def read(raw: bytes, name: str) -> Document:
    """Front matter, comments, tags and template marks are removed; links keep their text."""
    text = decode(raw)
    title = ""
    front = _FRONT_MATTER.match(text)
    if front:
        text = text[front.end() :]
        title = _title(front.group(1))
    text = "".join(part if is_code else _plain(part) for part, is_code in _parts(_COMMENT.sub("", text)))
    first = next((heading.name for heading in headings(text) if heading.level == 1), "")
    return Document(title or first or name, text)


def headings(text: str) -> Iterator[Heading]:
    """The headings of a text in order, "# Name" or "Name" over a line of "=" or "-"; a line in a code block is none."""
    offset = 0
    above, above_start, alone = "", 0, True  # the line before, and whether it began a paragraph
    for line, is_code in lines_of(text):
        end = offset + len(line)
        level = len(line) - len(line.lstrip("#"))
        if not is_code and 1 <= level <= 6 and line[level : level + 1].isspace():
            name = line.strip().lstrip("#").strip()
            bare = name.rstrip("#")
            name = bare if bare[-1:].isspace() or not bare else name  # "# Name #", but not "# C#"
            if name := _without_marks(name):
                yield Heading(level, name, offset, end)
            above, alone = "", True
        elif not is_code and above and (underline := _UNDERLINE.match(line)) and (name := _without_marks(above)):
            yield Heading(1 if underline.group(1)[0] == "=" else 2, name, above_start, end)
            above, alone = "", True
        else:
            blank = is_code or not line.strip()
            fits = alone and not blank and len(line) <= _LONGEST_HEADING and _NO_HEADING.match(line) is None
            above, above_start, alone = line.strip() if fits else "", offset, blank
        offset = end


def _without_marks(name: str) -> str:
    return _EMPHASIS.sub("", name).strip()


def _plain(text: str) -> str:
    text = _CODE_OR_MARK.sub(lambda found: found.group(1) or "", text)  # first: a link's target may hold template marks
    return _LINK.sub(r"\1", _IMAGE.sub(r"\1", text))


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in order, in pieces that are code blocks (True) or not."""
    lines: list[str] = []
    before = False
    for line, is_code in lines_of(text):
        if is_code != before:
            yield "".join(lines), before
            lines, before = [], is_code
        lines.append(line)
    yield "".join(lines), before


def lines_of(text: str) -> Iterator[tuple[str, bool]]:
    """Every line with its end, and whether it belongs to a fenced code block."""
    fence = ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        mark = (found.group(1) or found.group(2)) if found else ""
        yield line, bool(fence or mark)
        if not fence:
            fence = mark
        elif mark.startswith(fence) and line.strip() == mark:
            fence = ""


def _title(front_matter: str) -> str:
    try:
        values = yaml.load(front_matter, yaml.BaseLoader)  # texts only: a date that does not exist is no error
    except (yaml.YAMLError, RecursionError):
        return ""
    title = values.get("title") if isinstance(values, dict) else ""
    return " ".join(title.split()) if isinstance(title, str) else ""
