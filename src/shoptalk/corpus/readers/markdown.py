"""Markdown, with the title from its front matter or first heading."""

from __future__ import annotations

import re

import yaml

from shoptalk.corpus.readers import Document, decode

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_FIRST_HEADING = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]+)\]\((?:[^()\s]|\([^)]*\))*(?:\s+\"[^\"]*\")?\)")
_TAG = re.compile(r"</?[a-zA-Z][^>\n]*>")
_TEMPLATE = re.compile(r"\{[%{].*?[%}]\}|\{:[^}\n]*\}", re.DOTALL)


def read(raw: bytes, name: str) -> Document:
    """Front matter, comments, tags and template marks are removed; links keep their text."""
    text = decode(raw)
    title = ""
    front = _FRONT_MATTER.match(text)
    if front:
        text = text[front.end() :]
        title = _title(front.group(1))
    for pattern, kept in ((_COMMENT, ""), (_TEMPLATE, ""), (_IMAGE, r"\1"), (_LINK, r"\1"), (_TAG, "")):
        text = pattern.sub(kept, text)
    heading = _FIRST_HEADING.search(text)
    return Document(title or (heading.group(1) if heading else name), text)


def _title(front_matter: str) -> str:
    try:
        values = yaml.safe_load(front_matter)
    except yaml.YAMLError:
        return ""
    return str(values.get("title") or "").strip() if isinstance(values, dict) else ""
