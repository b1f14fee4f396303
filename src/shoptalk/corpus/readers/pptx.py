"""Slides: a slide is a page with its title, its text in order, its tables and the speaker's notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoptalk.corpus.office import office_file
from shoptalk.corpus.readers import Document, missing_part
from shoptalk.corpus.tables import table_text

_MOST_NESTED = 20


def read(raw: bytes, name: str) -> Document:
    """The slides in order. Raises Unreadable for an encrypted or damaged file, MissingPart."""
    try:
        import pptx
    except ImportError:
        raise missing_part("PowerPoint slides", "python-pptx") from None
    with office_file(raw, "PowerPoint slides", "PowerPoint", ".pptx") as file:
        slides = pptx.Presentation(file)
    text, starts, first_title = "", [], ""
    for slide in slides.slides:
        starts.append(len(text))
        title, blocks = _slide(slide)
        first_title = first_title or title
        page = "\n\n".join([f"## {title}", *blocks] if title else blocks)
        text += page + "\n\n" if page else ""
    said = " ".join((slides.core_properties.title or "").split())
    title = said if said and said.lower() != "powerpoint presentation" else first_title
    return Document(title or name, text.rstrip(), tuple(min(start, len(text.rstrip())) for start in starts))


def _slide(slide: Any) -> tuple[str, list[str]]:
    holder = slide.shapes.title
    title = " ".join(holder.text_frame.text.split()) if holder is not None and holder.has_text_frame else ""
    blocks = [block for shape in slide.shapes if shape != holder for block in _shape(shape) if block]
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = "\n".join(line for line in slide.notes_slide.notes_text_frame.text.split("\n") if line.strip())
        blocks += [f"Notes: {notes}"] if notes else []
    return title, blocks


def _shape(shape: Any, depth: int = 0) -> Iterator[str]:
    if hasattr(shape, "shapes") and depth < _MOST_NESTED:
        for inner in shape.shapes:
            yield from _shape(inner, depth + 1)
    elif getattr(shape, "has_table", False):
        yield table_text([[" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_text_frame", False):
        lines = [(p.level, " ".join(p.text.split())) for p in shape.text_frame.paragraphs if p.text.strip()]
        marked = len(lines) > 1
        yield "\n".join(f"{'  ' * level}- {line}" if marked else line for level, line in lines)
