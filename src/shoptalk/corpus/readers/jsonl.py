"""JSON lines as a document: one record a line, its title a heading, its text as it is."""

from __future__ import annotations

import json
from typing import Any

from shoptalk.corpus.readers import Document, Unreadable, decode
from shoptalk.corpus.tables import record_text


def read(raw: bytes, name: str) -> Document:
    """Every object that has a text; lines that are none are noted. Raises Unreadable when most lines are no JSON objects."""
    records: list[str] = []
    bad: list[str] = []
    without = 0
    for number, line in enumerate(decode(raw).split("\n"), 1):
        if not line.strip():
            continue
        row = _object(line)
        if isinstance(row, str):
            bad.append(f"line {number} is {row}")
        elif any(isinstance(value, str) and value.strip() for value in row.values()):
            records.append(
                record_text({str(key): text for key, value in row.items() if key != "_id" and (text := _text(value))})
            )
        else:
            without += 1
    if bad and len(bad) > len(records):
        raise Unreadable(bad[0] + (f"; and {len(bad) - 1} more lines" if len(bad) > 1 else ""))
    notes = [f"{without} lines without a text"] if without else []
    notes += [f"{len(bad)} lines left out; the first: {bad[0]}"] if bad else []
    return Document(name, "\n\n".join(records), note="; ".join(notes))


def _object(line: str) -> dict[str, Any] | str:
    """The object that a line holds, or what it is instead."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else "not a JSON object"


def _text(value: Any) -> str:
    """Texts, numbers and lists of them; what is nested deeper is no text."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(entry, str | int | float) for entry in value):
        return ", ".join(str(entry) for entry in value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
