"""`shoptalk queries --review FILE`: the file that a person edits, written from a finished stage."""

from __future__ import annotations

from pathlib import Path

from shoptalk.errors import SourceError


def offer_review(folder: Path, file: Path) -> str:
    """Write the made queries of a run to `file` unless it is there, and say what to do next. Raises SourceError when none were made."""
    from shoptalk.beir import read_jsonl, read_passages, read_queries
    from shoptalk.queries.review import read_review, write_review

    if file.is_file():
        rows = read_review(file)
        kept = sum(row.keep for row in rows)
        return f"{file}: {kept} of {len(rows)} queries kept, as edited; delete the file to have a new one written"
    made = {
        name: query for name, query in read_queries(folder / "queries/queries.jsonl").items() if query.origin != "human"
    }
    if not made:
        raise SourceError(
            f"{folder}: no queries were made, so there are none to review; those of your labels are used as they are"
        )
    passages = {passage.passage_id: passage for passage in read_passages(folder / "passages/corpus.jsonl")}
    first: dict[str, str] = {}
    for _, row in read_jsonl(folder / "queries/judgements.jsonl"):
        first.setdefault(row["query_id"], row["passage_id"])
    n = write_review(file, ((query.text, query.kind, passages[first[name]]) for name, query in made.items()))
    return (
        f"{file}: {n} queries to look at. Write no in keep, or delete a row, to drop a query; change its text in query; "
        "then give the same command again"
    )
