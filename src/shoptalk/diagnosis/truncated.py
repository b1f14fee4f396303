"""Truncated passages: text beyond the model's maximum length is never read, which matters where the answer stands there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import TorchEncoder
from shoptalk.records import Finding
from shoptalk.retrieval.bm25 import words

_MOST = 4_000
_STEM = 5


@dataclass(frozen=True, slots=True)
class Cut:
    """passages: looked at; over: those longer than max_tokens; tokens: the median length of those; pairs: judged train and dev
    pairs; lost: those in whose passage more of the query's words stand in the part that is cut than in the part that is read.
    """

    max_tokens: int
    passages: int
    over: int
    tokens: int
    pairs: int
    lost: int
    example: str


def find(evidence: Evidence) -> Finding | None:
    """Looks at a sample of the corpus, and at judged train and dev queries."""
    cut = measure(evidence)
    if cut is None or not cut.over:
        return None
    settings = evidence.settings.diagnose
    lost = cut.lost / max(1, cut.pairs)
    if lost < settings.cut_answers and cut.over / cut.passages < settings.truncated_share:
        return None
    answers = (
        f"; of {cut.pairs:,} judged train and dev pairs {cut.lost:,} ({lost:.1%}) have more of the query's words in the part that is "
        f"cut than in the part that is read{f' (such as {cut.example!r})' if cut.example else ''}"
        if cut.pairs
        else ""
    )
    return Finding(
        "truncated-passages",
        "warning" if lost >= settings.cut_answers else "info",
        f"{cut.over:,} of {cut.passages:,} passages ({cut.over / cut.passages:.1%}) are longer than the {cut.max_tokens} tokens that "
        f"the model reads (median of those: {cut.tokens:,}){answers}",
        "cut the documents into shorter passages (ingest.passage_tokens), or raise model.max_tokens where the model has positions "
        "for it; a question about the end of such a passage cannot find it",
    )


def measure(evidence: Evidence) -> Cut | None:
    """None for scored pairs, an encoder without tokenizer, and a model without maximum length."""
    engine = evidence.engine
    limit = engine.model.max_seq_length if engine is not None else None
    if engine is None or limit is None or not evidence.is_retrieval or not callable(engine.model.tokenizer):
        return None
    prompt = engine.model.prompts.get("document") or ""
    known = evidence.dataset.passages
    names = list(known)
    if len(names) > _MOST:
        rng = np.random.default_rng(evidence.settings.seed)
        names = [names[i] for i in sorted(rng.choice(len(names), _MOST, replace=False))]
    lengths = np.array(engine.count_tokens([known[name].content for name in names], prompt))
    over = lengths[lengths > limit]
    pairs, lost = _answers(evidence, engine, prompt, int(limit))
    return Cut(
        int(limit),
        len(names),
        len(over),
        int(np.median(over)) if len(over) else 0,
        pairs,
        len(lost),
        lost[0] if lost else "",
    )


def _answers(evidence: Evidence, engine: TorchEncoder, prompt: str, limit: int) -> tuple[int, list[str]]:
    """How many judged pairs there are, and the queries whose words stand in what is cut."""
    known = evidence.dataset.passages
    pairs = [
        (query, passage)
        for judged in evidence.judged.qrels.values()
        for query, found in judged.items()
        for passage, grade in found.items()
        if grade > 0 and passage in known
    ]
    texts = list(dict.fromkeys(known[passage].content for _, passage in pairs))
    lengths = engine.count_tokens(texts, prompt)
    long = [text for text, length in zip(texts, lengths, strict=True) if length > limit]
    split = dict(zip(long, _read(engine, long, prompt, limit), strict=True))
    lost = []
    for query, passage in pairs:
        text = known[passage].content
        if text in split:
            asked = _stems(evidence.dataset.queries[query].text)
            read, cut = _stems(text[: split[text]]), _stems(text[split[text] :])
            if len(asked & cut) > len(asked & read):
                lost.append(evidence.dataset.queries[query].text)
    return len(pairs), lost


def _read(engine: TorchEncoder, texts: Sequence[str], prompt: str, limit: int) -> list[int]:
    """How many characters of each text the model reads."""
    tokenizer: Any = engine.model.tokenizer
    if not texts:
        return []
    prompted = [prompt + text for text in texts]
    if not tokenizer.is_fast:  # no offsets: characters as tokens
        counts = engine.count_tokens(texts, prompt)
        return [len(text) * limit // count for text, count in zip(texts, counts, strict=True)]
    rows = tokenizer(prompted, truncation=True, max_length=limit, return_offsets_mapping=True)["offset_mapping"]
    return [max(0, max(int(end) for _, end in row) - len(prompt)) for row in rows]


def _stems(text: str) -> set[str]:
    """The first letters of the text's words: "fee" and "fees" are one."""
    return {word[:_STEM] for word in words(text)}
