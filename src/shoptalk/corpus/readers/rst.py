"""reStructuredText by docutils, read without including files or running anything. What only Sphinx knows keeps its text."""

from __future__ import annotations

import re
from typing import Any

from shoptalk.corpus.readers import Document, decode, missing_part

_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([^`]*)`")
_TARGET = re.compile(r"\s*<[^<>]*>$")
_DIRECTIVE = re.compile(r"^[ \t]*\.\. +([a-zA-Z][\w:+.-]*)::", re.MULTILINE)
_CODE = ("code-block", "sourcecode", "ipython", "doctest", "testcode", "prompt", "parsed-literal")
_SILENT = (
    "toctree",
    "index",
    "highlight",
    "currentmodule",
    "only",
    "tabularcolumns",
    "include",
    "literalinclude",
    "raw",
)
_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "report_level": 5,
    "halt_level": 5,
    "syntax_highlight": "none",
    "input_encoding": "unicode",
    "output_encoding": "unicode",
    "doctitle_xform": True,
    "initial_header_level": 2,
    "line_length_limit": 1_000_000,
    "traceback": True,
}


def read(raw: bytes, name: str) -> Document:
    """The document's title and text; comments, targets and substitutions are resolved. Raises MissingPart."""
    try:
        from docutils.core import publish_parts
    except ImportError:
        raise missing_part("reStructuredText", "docutils") from None
    from shoptalk.corpus import markup

    source = _ROLE.sub(lambda role: _TARGET.sub("", role.group(1)).lstrip("~!"), decode(raw))
    _teach(source)
    parts = publish_parts(source, writer="html5", settings_overrides=_SETTINGS)
    tree = markup.parse(f"<html><body>{parts['fragment']}</body></html>")
    title = markup.parse(f"<p>{parts['title']}</p>")
    heading = "" if title is None else " ".join(title.text_content().split())
    if tree is None:
        return Document(heading or name, "")
    for told in [*tree.iter("div", "aside", "span")]:
        if "system-message" in (told.get("class") or ""):
            told.drop_tree()
    text = markup.to_markdown(tree)
    return Document(heading or name, f"# {heading}\n\n{text}" if heading and text else text)


def _teach(source: str) -> None:
    """Directives that docutils does not know are read for their content instead of being left out."""
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives
    from docutils.parsers.rst.languages import en
    from docutils.utils import new_document

    class Content(Directive):  # type: ignore[misc]
        has_content = True
        optional_arguments = 1
        final_argument_whitespace = True
        option_spec = _AnyOption()

        def run(self) -> list[Any]:
            told: list[Any] = []
            if self.name in _CODE:
                return [nodes.literal_block("\n".join(self.content), "\n".join(self.content))]
            if self.name in _SILENT:
                return told
            if self.arguments:
                told.append(nodes.paragraph(self.arguments[0], self.arguments[0]))
            inner = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, inner)
            return [*told, inner]

    document = new_document("names")
    for name in {*_DIRECTIVE.findall(source)}:
        if name in _SILENT or name in _CODE or directives.directive(name, en, document)[0] is None:
            directives.register_directive(name, Content)


class _AnyOption(dict[str, Any]):
    """Takes every option of a directive as text."""

    def __missing__(self, name: str) -> Any:
        return lambda argument: argument or ""

    def __bool__(self) -> bool:
        return True
