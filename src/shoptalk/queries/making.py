"""The stage queries: judged queries from a BEIR folder, from labelled files and logs, or made from the passages themselves.

Writes queries.jsonl, judgements.jsonl (with the split where one was given), negatives.jsonl, pairs.jsonl (scored pairs),
cuts.jsonl (text to take out of passages because it became a query), rejected.jsonl, and yields.json where queries were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoptalk.beir import looks_like_beir, read_passages, read_qrels, read_queries, write_jsonl, write_queries
from shoptalk.errors import SourceError
from shoptalk.labelled import Label, LabelledFile, is_labelled_file, read_labelled
from shoptalk.llm.spending import who_agrees
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.queries.checks import Refused
from shoptalk.queries.click_logs import read_log
from shoptalk.queries.clicks import weak_labels
from shoptalk.queries.generators import Draft, generate_drafts
from shoptalk.queries.judging import judge_drafts
from shoptalk.queries.mapping import PassageFinder
from shoptalk.queries.naming import text_query_id
from shoptalk.queries.review import apply_review, read_review
from shoptalk.queries.yields import yields
from shoptalk.records import Judgement, Passage, Query, Rejected, ScoredPair
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext

if TYPE_CHECKING:
    from shoptalk.queries.llm_judge import LLMJudge

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
    yields: dict[str, Any] = field(default_factory=dict)

    @property
    def can_train(self) -> bool:
        """Whether there is anything that is not kept for dev or test."""
        return any(split in ("", "train") for _, split in [*self.judgements, *self.pairs])


def make_queries(stage: StageContext) -> None:
    """Write the queries artifact. Raises SourceError when nothing is left to train or test with."""
    settings = stage.settings
    passages = read_passages(stage.read("passages") / "corpus.jsonl")
    source = Path(settings.input.source)
    made = Made()
    if source.is_dir() and looks_like_beir(source):
        _from_beir(source, passages, settings, made)
    elif source.is_file() and is_labelled_file(source):
        _from_labels(source, "", passages, settings, made)
    for name, split in (
        (settings.input.queries, ""),
        (settings.input.dev_queries, "dev"),
        (settings.input.test_queries, "test"),
    ):
        if name:
            _from_labels(Path(name), split, passages, settings, made)
    if settings.input.clicks:
        _from_clicks(Path(settings.input.clicks), passages, settings, made)
    _make(passages, stage, made)
    _write(stage.out, made)


def _make(passages: list[Passage], stage: StageContext, made: Made) -> None:
    """Make queries where that is wanted: as `queries.make` says, by itself only where there is nothing to train with."""
    how = stage.settings.queries.make
    if made.pairs or how == "never" or (how == "auto" and made.can_train):
        if not made.can_train:
            raise SourceError(
                f"{stage.settings.input.source}: nothing to train with: no labels but those kept for dev and test, and queries.make "
                f"is {how}; give labelled queries with --queries FILE, or --set queries.make=auto"
            )
        return
    _from_passages(passages, stage, made)


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
    if made.yields:
        text = json.dumps(made.yields, ensure_ascii=False, indent=1, allow_nan=False)
        (out / "yields.json").write_text(text + "\n", encoding="utf-8")


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


def _from_clicks(path: Path, passages: list[Passage], settings: Settings, made: Made) -> None:
    events, rejected = read_log(path)
    weak = weak_labels(events, passages, settings.queries)
    made.rejected += rejected + weak.rejected
    if not weak.labels:
        first = weak.rejected[0]
        raise SourceError(f"{path}: no click is left as a label; the first: {first.item}: {first.reason}")
    for label in weak.labels:
        query_id = text_query_id(label.query)
        made.queries.setdefault(query_id, Query(query_id, label.query, kind="click"))
        made.judgements.append((Judgement(query_id, label.passage_id, weight=label.weight, kind="click"), ""))
    by_id = {passage.passage_id: passage.content for passage in passages}
    for query, passed_over in weak.skipped.items():
        if text_query_id(query) in made.queries:
            made.negatives.setdefault(text_query_id(query), []).extend(by_id[p] for p in passed_over)


def _from_passages(passages: list[Passage], stage: StageContext, made: Made) -> None:
    settings = stage.settings
    drafts = (
        _written(passages, stage, made) if settings.llm.provider else generate_drafts(passages, settings.queries.kinds)
    )
    encoder = CachedEncoder(find_model(settings.model.base), settings.model, stage.cache)
    judge = _llm_judge(passages, stage)
    judged = judge_drafts(drafts, passages, settings.queries, encoder, judge.reasons if judge else None)
    kept, refused = judged.kept, judged.refused
    if settings.queries.review and Path(settings.queries.review).is_file():
        review = Path(settings.queries.review)
        kept, turned_down, gone = apply_review(kept, read_review(review), review.name)
        refused = [*refused, *turned_down]
        made.rejected += gone
    made.yields = yields(kept, refused, settings.queries)
    if judge is not None:
        made.yields["llm_judge"] = judge.spent.as_json() | {"unjudged": judge.unjudged}
    made.rejected += [_as_rejected(one) for one in refused]
    _add(kept, made)
    if not kept:
        raise SourceError(_nothing_made(settings.input.source, len(passages), refused))


def _written(passages: list[Passage], stage: StageContext, made: Made) -> list[Draft]:
    """Drafts by the language model that the settings name. Its paid answers lie in the cache, which outlives the stage."""
    from shoptalk.queries.llm import generate_with_llm

    agree = who_agrees(stage)
    found = generate_with_llm(
        passages,
        stage.settings.llm,
        stage.cache / "llm",
        _few_shot(passages, made),
        lambda estimate: agree(estimate.words),
    )
    made.rejected += found.rejected
    usage = json.dumps(found.usage.as_json(), indent=1, allow_nan=False)
    (stage.out / "usage.json").write_text(usage + "\n", encoding="utf-8")
    return found.drafts


def _llm_judge(passages: list[Passage], stage: StageContext) -> LLMJudge | None:
    if not stage.settings.queries.llm_judge:
        return None
    from shoptalk.queries.llm_judge import LLMJudge

    return LLMJudge(passages, stage.settings, stage.cache / "llm", who_agrees(stage))


def _few_shot(passages: Sequence[Passage], made: Made) -> list[tuple[str, str]]:
    """Queries of the user's own with a passage that answers them, of those that can become no test query."""
    texts = {passage.passage_id: passage.text for passage in passages}
    safe = ("train", "") if any(split == "test" for _, split in made.judgements) else ("train",)
    chosen = {
        one.query_id: one.passage_id for one, split in made.judgements if split in safe and one.kind == "labelled"
    }
    return [(made.queries[query].text, texts[passage]) for query, passage in chosen.items()]


def _add(drafts: Sequence[Draft], made: Made) -> None:
    for draft in drafts:
        query_id = text_query_id(draft.text)
        made.queries.setdefault(query_id, Query(query_id, draft.text, draft.origin, draft.kind, draft.language))
        made.judgements += [(Judgement(query_id, passage_id, kind=draft.kind), "") for passage_id in draft.passage_ids]
        made.cuts += [(passage_id, draft.cut) for passage_id in draft.passage_ids] if draft.cut else []
        if draft.negatives:
            made.negatives.setdefault(query_id, []).extend(draft.negatives)


def _as_rejected(one: Refused) -> Rejected:
    return Rejected(f"{one.draft.kind} {one.draft.passage_ids[0]}: {one.draft.text[:200]}", one.check, one.reason)


def _nothing_made(source: str, n_passages: int, refused: Sequence[Refused]) -> str:
    if refused:
        first = _as_rejected(refused[0])
        return (
            f"{source}: no labels, and all {len(refused)} queries made from its {n_passages} passages were rejected; the first: "
            f"{first.item}: {first.check}, {first.reason}. Give labelled queries with --queries FILE, or loosen the checks (queries.*)"
        )
    return (
        f"{source}: no labels, and its {n_passages} passages have no headings, questions or definitions to make "
        "queries from; give labelled queries with --queries FILE, name a language model with llm.provider, or try "
        "queries.kinds=[key-phrase], which hurt where it was measured"
    )
