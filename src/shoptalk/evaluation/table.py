"""Quality against size and speed: every system in every form that it could be kept in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.models.encoder import Encoder, Vectors
from shoptalk.progress import task
from shoptalk.records import Dataset, Qrels, Ranking
from shoptalk.retrieval.compression import Form, forms, search_form
from shoptalk.retrieval.metrics import PRIMARY, mean, per_query
from shoptalk.retrieval.topk import as_ranking, search
from shoptalk.settings import EvaluateSettings, Settings

SHOWN_METRICS = (PRIMARY, "recall@100")


@dataclass(frozen=True)
class Encoded:
    """The queries of a split and the whole corpus as one model sees them. Large vectors are memory-mapped."""

    query_ids: Sequence[str]
    queries: Vectors
    passage_ids: Sequence[str]
    passages: Vectors

    @property
    def dimensions(self) -> int:
        """Of a vector."""
        return int(self.passages.shape[1])

    def ranking(self, depth: int) -> Ranking:
        """Exact, at full size and precision."""
        return search(self.query_ids, self.queries, self.passage_ids, self.passages, depth)

    def kept_as(self, form: Form, depth: int) -> Ranking:
        """Exact, with the passages kept in a form."""
        indices, scores = search_form(self.queries, self.passages, form, depth)
        return as_ranking(self.query_ids, self.passage_ids, indices, scores)


def encode(encoder: Encoder, dataset: Dataset, query_ids: Sequence[str]) -> Encoded:
    """The named queries and all passages."""
    queries = encoder.encode_queries([dataset.queries[q].text for q in query_ids])
    passages = encoder.encode_passages([p.content for p in dataset.passages.values()])
    return Encoded(list(query_ids), queries, list(dataset.passages), passages)


def table_rows(
    system: str,
    encoded: Encoded,
    full: dict[str, float],
    judged: Qrels,
    seconds_per_1000: float | None,
    settings: Settings,
) -> list[dict[str, Any]]:
    """A system's rows of comparison.json's "table": full size first, in every precision, then the smaller sizes.

    full: its metrics as they are, which the first row repeats. bytes_per_passage is the vector alone, as a vector store keeps it
    before any index; seconds_per_1000 is encoding, which no form changes.
    """
    wanted = _forms(encoded.dimensions, settings)
    rows = []
    with task(f"sizes and precisions of {system}", len(wanted)) as bar:
        for form in wanted:
            if form.dimensions == encoded.dimensions and form.precision == "float32":
                metrics = full
            else:
                ranking = encoded.kept_as(form, settings.evaluate.depth)
                metrics = mean(per_query(judged, ranking, SHOWN_METRICS))
            row = plain_row(system, metrics, float(form.bytes_per_passage), seconds_per_1000)
            row |= {"dimensions": form.dimensions, "precision": form.precision}
            rows.append(row | ({"rescored": form.rescore} if form.precision == "binary" else {}))
            bar.advance()
    return rows


def plain_row(
    system: str, metrics: dict[str, float], bytes_per_passage: float | None, seconds_per_1000: float | None
) -> dict[str, Any]:
    """The row of a system that is not vectors alone (BM25, fused, a run file)."""
    return {
        "system": system,
        "dimensions": None,
        "precision": "",
        **{metric: metrics[metric] for metric in SHOWN_METRICS},
        "bytes_per_passage": bytes_per_passage,
        "seconds_per_1000": seconds_per_1000,
    }


def _forms(full: int, settings: Settings) -> list[Form]:
    evaluate: EvaluateSettings = settings.evaluate
    dims = settings.train.matryoshka if evaluate.dims == "auto" else evaluate.dims
    precisions = tuple(dict.fromkeys(("float32", *evaluate.precisions)))
    return [Form(form.dimensions, form.precision, evaluate.rescore) for form in forms(full, dims, precisions)]
