"""`shoptalk ingest --show N`: passages as a person wants to see them, with where they come from."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from shoptalk.records import Passage

_INDENT = (0, 0, 1, 2)
_WRAPPED = re.compile(r"(?<=[\w,;:.)’'\"])\n(?=[\w(“\"'])(?!\d+[.)] )")


def shown_passages(folder: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """`n` passages of a run folder, drawn evenly over its corpus, each with its place, language and length in tokens.

    Raises DamagedArtifact when the run folder has no passages.
    """
    from shoptalk.beir import read_passages
    from shoptalk.corpus.chunking import Chunker
    from shoptalk.errors import DamagedArtifact
    from shoptalk.models.finding import find_model
    from shoptalk.settings import read_settings

    corpus = folder / "passages" / "corpus.jsonl"
    if not corpus.is_file():
        raise DamagedArtifact(f"{folder}: has no passages; make them with: shoptalk ingest SOURCE --out {folder}")
    settings = read_settings(folder / "shoptalk.yaml")
    chunker = Chunker(find_model(settings.model.base).path / "tokenizer.json", settings.ingest.passage_tokens)
    return [
        {
            "id": p.passage_id,
            "title": p.title,
            "source": p.source,
            "page": p.page,
            "start": p.start,
            "language": p.language,
            "tokens": chunker.count(p.content),
            "text": p.text,
        }
        for p in _drawn(read_passages(corpus), n, seed)
    ]


def _drawn(passages: list[Passage], n: int, seed: int) -> list[Passage]:
    """One passage from each of `n` equal stretches of the corpus."""
    import numpy as np

    n = min(n, len(passages))
    rng = np.random.default_rng(seed)
    borders = np.linspace(0, len(passages), n + 1).astype(int)
    return [passages[int(rng.integers(low, high))] for low, high in itertools.pairwise(borders)]


def show_passages(rows: list[dict[str, Any]], console: Console) -> None:
    """Print passages, each under a line that says where it stands."""
    for row in rows:
        place = [row["source"] or row["id"]]
        place += [f"page {row['page']}"] if row["page"] else []
        place += [row["language"]] if row["language"] else []
        place += [f"{row['tokens']} tokens"]
        console.print(Text(" · ".join(place), style="dim"), soft_wrap=True)
        if row["title"]:
            console.print(Text(row["title"], style="bold"), soft_wrap=True)
        console.print(Padding(Text(_flowing(row["text"])), _INDENT))


def _flowing(text: str) -> str:
    """Lines that a text's author wrapped, as one: a line that begins like a list, a table, a quote or code stays its own."""
    if "```" in text:
        return text
    return _WRAPPED.sub(" ", text)
