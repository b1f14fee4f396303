"""The stage queries: judged queries from a BEIR folder, from labelled files, or made from the passages themselves.

Writes queries.jsonl, judgements.jsonl (with the split where one was given), negatives.jsonl, pairs.jsonl (scored pairs),
cuts.jsonl (text to take out of passages because it became a query) and rejected.jsonl.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shoptalk.beir import looks_like_beir, read_passages, read_qrels, read_queries, write_jsonl, write_queries
from shoptalk.errors import SourceError
from shoptalk.labelled import Label, LabelledFile, read_labelled
from shoptalk.queries.generators import generate_queries
from shoptalk.queries.mapping import PassageFinder
from shoptalk.records import Judgement, Passage, Query, Rejected, ScoredPair
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext

_BEIR_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "val": "dev", "test": "test"}


@dataclass
class Made:
    """What the stage collects. `judgements` come with the split that was given for them, or ""."""

    queries: dict[str, Query] = field(default_factory=dict)
    judgements: list[tuple[Judgement, str]] = field(default_factory=list)
    negatives: dict[str, list[str]] = field(default_factory=dict)
    pairs: list[tuple[ScoredPair, str]] = field(default_factory=list)
    cuts: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def make_queries(stage: StageContext) -> None:
    """Write the queries artifact. Raises SourceError when nothing is left to train or test with."""
    settings = stage.settings
    passages = read_passages(stage.read("passages") / "corpus.jsonl")
    source = Path(settings.input.source)
    made = Made()
    if source.is_dir() and looks_like_beir(source):
        _from_beir(source, passages, settings, made)
    elif source.is_file():
        _from_labels(source, "", passages, settings, made)
    for name, split in (
        (settings.input.queries, ""),
        (settings.input.dev_queries, "dev"),
        (settings.input.test_queries, "test"),
    ):
        if name:
            _from_labels(Path(name), split, passages, settings, made)
    if not made.pairs and not any(split != "test" for _, split in made.judgements):
        _from_passages(passages, settings, made)
    _write(stage.out, made)


def _write(out: Path, made: Made) -> None:
    write_queries(out / "queries.jsonl", made.queries.values())
    write_jsonl(
        out / "judgements.jsonl",
        (asdict(judgement) | {"split": split} for judgement, split in made.judgements),
    )
    write_jsonl(out / "negatives.jsonl", ({"query_id": q, "texts": texts} for q, texts in made.negatives.items()))
    write_jsonl(out / "pairs.jsonl", (asdict(pair) | {"split": split} for pair, split in made.pairs))
    write_jsonl(out / "cuts.jsonl", ({"passage_id": passage_id, "text": text} for passage_id, text in made.cuts))
    write_jsonl(out / "rejected.jsonl", map(asdict, made.rejected))


def _from_beir(folder: Path, passages: list[Passage], settings: Settings, made: Made) -> None:
    queries = read_queries(folder / "queries.jsonl")
    known = {p.passage_id for p in passages}
    files = [
        (path, _BEIR_SPLITS[path.stem])
        for path in sorted((folder / "qrels").glob("*.tsv"))
        if path.stem in _BEIR_SPLITS
    ]
    if not files:
        raise SourceError(
            f"{folder}: a BEIR folder without qrels/train.tsv or qrels/test.tsv; there is nothing to train or test with"
        )
    dangling: list[Rejected] = []
    for path, split in files:
        for query_id, judged in read_qrels(path).items():
            for passage_id, grade in judged.items():
                where = f"qrels/{path.name}: {query_id} {passage_id}"
                if query_id not in queries:
                    dangling.append(Rejected(where, "dangling", f"queries.jsonl has no {query_id!r}"))
                elif passage_id not in known:
                    dangling.append(Rejected(where, "dangling", f"corpus.jsonl has no {passage_id!r}"))
                elif grade > 0 or split == "test":
                    made.queries.setdefault(query_id, queries[query_id])
                    made.judgements.append((Judgement(query_id, passage_id, grade), split))
    if dangling and (settings.input.dangling == "error" or not made.judgements):
        raise SourceError(
            f"{folder}: {len(dangling)} judgements name what does not exist; the first: {dangling[0].item}: {dangling[0].reason}. "
            "Mend the files, or leave such judgements out with --set input.dangling=drop"
        )
    made.rejected += dangling


def _from_labels(path: Path, split: str, passages: list[Passage], settings: Settings, made: Made) -> None:
    file = read_labelled(path, settings.input.columns)
    made.rejected += file.rejected
    if file.shape == "scored":
        for scored in file.scored:
            pair = ScoredPair(f"s{len(made.pairs):06d}", scored.sentence1, scored.sentence2, scored.score)
            made.pairs.append((pair, split))
        return
    finder = PassageFinder(passages)
    before = len(made.judgements)
    for label in file.labels:
        found, reason = finder.find(label)
        if not found:
            made.rejected.append(Rejected(label.where, "maps-to-nothing", f"{reason} (query {label.query[:60]!r})"))
            continue
        query_id = _query_id(label, made.queries)
        made.queries.setdefault(query_id, Query(query_id, label.query, language=label.language))
        made.judgements += [(Judgement(query_id, passage_id, label.grade), split) for passage_id in found]
        if label.negatives:
            made.negatives.setdefault(query_id, []).extend(label.negatives)
    if len(made.judgements) == before:
        raise SourceError(_nothing_mapped(path, file, made.rejected))


def _query_id(label: Label, known: Mapping[str, Query]) -> str:
    """The label's own query id, unless another file uses it for another question or no qrels file can hold it."""
    own = label.query_id
    taken = own in known and known[own].text.split() != label.query.split()
    unfit = not own or any(mark in own for mark in "\t\n\r")
    return text_query_id(label.query) if taken or unfit else own


def _nothing_mapped(path: Path, file: LabelledFile, rejected: list[Rejected]) -> str:
    return (
        f"{path}: none of its {len(file.labels)} labels maps to a passage; the first: {rejected[-len(file.labels)].item}: "
        f"{rejected[-len(file.labels)].reason}. A label names its passage by passage_id, by document and offset, or by a quote from it"
    )


def _from_passages(passages: list[Passage], settings: Settings, made: Made) -> None:
    drafts = generate_queries(passages, settings.queries.kinds, settings.queries.per_passage)
    for draft in drafts:
        query_id = text_query_id(draft.text)
        made.queries.setdefault(query_id, Query(query_id, draft.text, "offline", draft.kind))
        made.judgements += [(Judgement(query_id, passage_id), "") for passage_id in draft.passage_ids]
        made.cuts += _cuts(draft.cut, draft.passage_ids)
    if not drafts:
        raise SourceError(
            f"{settings.input.source}: no labels, and its {len(passages)} passages have no headings, questions, definitions or "
            "phrases to make queries from; give labelled queries with --queries FILE"
        )


def _cuts(text: str, passage_ids: Iterable[str]) -> list[tuple[str, str]]:
    return [(passage_id, text) for passage_id in passage_ids] if text else []


def text_query_id(text: str) -> str:
    """An id that depends on the query's text alone, so that labels of one question meet in one query."""
    return "q-" + hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]
