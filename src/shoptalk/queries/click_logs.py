"""Click logs and search logs as files: .jsonl, .csv, .tsv or .parquet, in any of three shapes.

    query, shown, clicked                      a row for each search: the results in their order, and those that were clicked
    query, passage_id, clicked [, position]    a row for each result of a search; clicked is 0 or 1, or clicks out of `count`
    query, chosen [, position]                 a row for each choice, where nobody kept what else was shown

`passage_id` and the results are passage ids, documents (path, or the end of it) or quotes. Also read: `count` (how many times the row
happened) and `session` (one vote for each result). Lists in .csv and .tsv are JSON, or separated by "|" or line breaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shoptalk.errors import SourceError
from shoptalk.labelled import plain_column, read_rows
from shoptalk.records import Rejected

# Ours -> what logs call it.
_ALIASES: dict[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "search_term", "search_terms", "query_text", "question", "q", "keywords"),
    "shown": ("shown", "results", "shown_ids", "displayed", "candidates", "ranking", "impression_list"),
    "clicked": ("clicked", "click", "clicks", "clicked_id", "clicked_ids", "is_click", "is_clicked"),
    "chosen": ("chosen", "selected", "opened", "chosen_document", "clicked_document", "clicked_url"),
    "target": ("passage_id", "result", "result_id", "doc_id", "document_id", "document", "doc", "url", "path", "passage", "text"),
    "position": ("position", "rank", "click_position", "result_position"),
    "count": ("count", "impressions", "times", "frequency", "n"),
    "session": ("session", "session_id", "visit", "visit_id", "search_id"),
}  # fmt: skip
_TRUE = frozenset("1 true yes y t".split())
_FALSE = frozenset(["0", "false", "no", "n", "f", ""])


@dataclass(frozen=True, slots=True)
class Event:
    """One result of a search: looked at up to `looks` times at `position` (from 1; 0: not known), clicked `clicks` times.

    `chosen_only`: the log holds choices alone, so other results were shown that it does not name. `skipped`: how often it was
    passed over for a click further down.
    """

    where: str
    query: str
    target: str
    position: int = 0
    clicks: int = 0
    looks: int = 1
    session: str = ""
    skipped: int = 0
    chosen_only: bool = False

    def as_one(self) -> Event:
        """The event as one vote, however often it happened."""
        return replace(self, clicks=min(1, self.clicks), looks=1, skipped=min(1, self.skipped))


def read_log(path: Path) -> tuple[list[Event], list[Rejected]]:
    """The events of a log, and the rows that cannot be used. Raises SourceError when it is no log or nothing is left."""
    rows = read_rows(path)
    names = {plain_column(name): name for _, row in reversed(rows) for name in row}
    column = {ours: next((names[a] for a in aliases if a in names), "") for ours, aliases in _ALIASES.items()}
    read = _shape(column)
    if not column["query"] or read is None:
        raise SourceError(
            f"{path}: columns {', '.join(names.values())}; a click log has query, shown and clicked, or query, passage_id and "
            "clicked, and a search log has query and chosen. Rename yours"
        )
    events: list[Event] = []
    rejected: list[Rejected] = []
    for number, row in rows:
        cell = {ours: row.get(theirs) for ours, theirs in column.items() if theirs}
        where = f"{path.name}:{number}"
        try:
            if not _text(cell["query"]):
                raise _UnusableError("empty", "the query is empty")
            events += read(where, cell)
        except _UnusableError as problem:
            rejected.append(Rejected(where, problem.check, problem.reason))
    if not any(event.clicks for event in events):
        first = f"; the first row that cannot be used: {rejected[0].item}: {rejected[0].reason}" if rejected else ""
        raise SourceError(f"{path}: none of its {len(rows)} rows holds a click{first}")
    return events, rejected


class _UnusableError(Exception):
    """A row that says nothing that can be used."""

    def __init__(self, check: str, reason: str) -> None:
        self.check, self.reason = check, reason


def _shape(column: Mapping[str, str]) -> Any:
    """How rows with these columns are read, or None."""
    if column["shown"] and (column["clicked"] or column["chosen"]):
        return _search
    if column["target"] and column["clicked"]:
        return _result
    if column["chosen"] or column["clicked"] or column["target"]:
        return _choice
    return None


def _search(where: str, cell: Mapping[str, Any]) -> Iterator[Event]:
    shown = list(dict.fromkeys(_list(cell["shown"])))
    clicked = _list(cell.get("clicked") if "clicked" in cell else cell.get("chosen"))
    if not shown:
        raise _UnusableError("empty", "nothing was shown")
    strange = [one for one in clicked if one not in shown]
    if strange:
        raise _UnusableError(
            "not-shown", f"{strange[0]!r} was clicked, but is not among the {len(shown)} that were shown"
        )
    n = _whole(cell.get("count"), "count", 1)
    lowest = max((shown.index(one) for one in clicked), default=-1)
    for index, target in enumerate(shown):
        yield Event(
            where, _text(cell["query"]), target, index + 1,
            n if target in clicked else 0, n, _text(cell.get("session")), n if index < lowest and target not in clicked else 0,
        )  # fmt: skip


def _result(where: str, cell: Mapping[str, Any]) -> Iterator[Event]:
    target = _text(cell["target"])
    if not target:
        raise _UnusableError("empty", "nothing says which result it was")
    said = _text(cell["clicked"]).casefold()
    if said in _TRUE or said in _FALSE:
        n = _whole(cell.get("count"), "count", 1)
        clicks = n if said in _TRUE and said != "1" else int(said == "1")
    else:
        clicks = _whole(said, "clicked", 0)
        n = _whole(cell.get("count"), "count", clicks)
    if clicks > n:
        raise _UnusableError("bad-number", f"clicked {clicks} times, but shown {n} times")
    yield Event(where, _text(cell["query"]), target, _position(cell), clicks, n, _text(cell.get("session")))


def _choice(where: str, cell: Mapping[str, Any]) -> Iterator[Event]:
    chosen = next((_list(cell[name]) for name in ("chosen", "clicked", "target") if cell.get(name) is not None), [])
    if not chosen:
        raise _UnusableError("empty", "nothing says what was chosen")
    n = _whole(cell.get("count"), "count", 1)
    for target in chosen:
        yield Event(
            where, _text(cell["query"]), target, _position(cell), n, n, _text(cell.get("session")), chosen_only=True
        )


def _position(cell: Mapping[str, Any]) -> int:
    return _whole(cell.get("position"), "position", 0)


def _whole(value: Any, what: str, default: int) -> int:
    text = _text(value)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != int(number) or number < 1:
        raise _UnusableError("bad-number", f"{what} {value!r} is not a whole number from 1")
    return int(number)


def _list(value: Any) -> list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for one in value if (text := _text(one))]
    text = value.strip() if isinstance(value, str) else _text(value)
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, list):
            return _list(found)
    return [part for piece in text.split("\n") for one in piece.split("|") if (part := one.strip())]


def _text(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(value).split()) if not isinstance(value, float) or value != int(value) else str(int(value))
