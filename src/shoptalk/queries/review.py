"""Made queries as a CSV that a person edits in a spreadsheet, and the same file read back.

Once the file exists it decides: a query is used when its row is there and says yes, with the text that the row has then.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shoptalk.errors import SourceError
from shoptalk.queries.checks import Refused
from shoptalk.queries.generators import Draft
from shoptalk.queries.naming import text_query_id
from shoptalk.records import Passage, Rejected
from shoptalk.spreadsheet import neutralised, read_sheet, restored
from shoptalk.workspace import write_atomically

COLUMNS = ("keep", "query", "kind", "passage", "source", "note", "query_id")
_NEEDED = ("keep", "query", "query_id")
_EXCERPT_CHARS = 300
# A spreadsheet takes a cell that begins so for a formula, which may run a program. Source: OWASP, CSV injection.
_YES = frozenset("yes y true 1 x ja oui si sí".split())
_NO = frozenset("no n false 0 nein non".split())


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """What a person said of one query. `query_id` is that of the text as it was made."""

    query_id: str
    text: str
    keep: bool
    note: str
    line: int


def write_review(path: Path, drafts: Iterable[tuple[str, str, Passage]]) -> int:
    """Write a new file from (text, kind, first passage) and return how many rows it has. UTF-8 with BOM, for Excel."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(COLUMNS)
    rows = 0
    for text, kind, passage in drafts:
        excerpt = " ".join(passage.content.split())
        excerpt = excerpt if len(excerpt) <= _EXCERPT_CHARS else excerpt[: _EXCERPT_CHARS - 3] + "..."
        cells = ("yes", text, kind, excerpt, passage.source or passage.passage_id, "", text_query_id(text))
        table.writerow([neutralised(cell) for cell in cells])
        rows += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\ufeff" + out.getvalue())
    return rows


def read_review(path: Path) -> list[ReviewRow]:
    """The rows of a review file. Raises SourceError with the line and what to write there."""
    otherwise = "It is not a file that `shoptalk queries --review` wrote, or its header was changed"
    rows: list[ReviewRow] = []
    for line, row in read_sheet(path, _NEEDED, otherwise):
        if any((value or "").strip() for value in row.values() if not isinstance(value, list)):
            rows.append(_row(path, line, row, rows))
    return rows


def _row(path: Path, line: int, row: dict[str, str | None], before: Sequence[ReviewRow]) -> ReviewRow:
    where = f"{path}, line {line}"
    text, query_id = (" ".join(restored(row[name] or "").split()) for name in ("query", "query_id"))
    said = (row["keep"] or "").strip().casefold()
    if said not in _YES | _NO:
        raise SourceError(f"{where}: keep is {row['keep']!r}; write yes or no")
    if not query_id:
        raise SourceError(f"{where}: query_id is empty; queries of your own go into a file of labels (--queries)")
    twice = next((other.line for other in before if other.query_id == query_id), None)
    if twice is not None:
        raise SourceError(f"{where}: query_id {query_id} was already used in line {twice}; delete one of the two")
    if said in _YES and not text:
        raise SourceError(f"{where}: the query is empty; write one, or no in keep")
    return ReviewRow(query_id, text, said in _YES, restored((row.get("note") or "").strip()), line)


def apply_review(
    drafts: Sequence[Draft], rows: Sequence[ReviewRow], file: str
) -> tuple[list[Draft], list[Refused], list[Rejected]]:
    """The drafts that a person kept, with their edited texts; those turned down; and rows whose query is not made any more."""
    said = {row.query_id: row for row in rows}
    kept, refused = [], []
    for draft in drafts:
        row = said.pop(text_query_id(draft.text), None)
        if row is None:
            refused.append(
                Refused(draft, "review", f"not in {file}: deleted there, or made since; delete the file for a new one")
            )
        elif not row.keep:
            refused.append(
                Refused(draft, "review", f"{file}, line {row.line} says no{': ' if row.note else ''}{row.note}")
            )
        else:
            kept.append(replace(draft, text=row.text))
    gone = [
        Rejected(f"{file}:{row.line}", "review", f"its query is not made any more: {row.text[:80]!r}")
        for row in said.values()
    ]
    return kept, refused, gone
