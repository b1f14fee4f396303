"""Pages of text per second over a folder of documents: reading, cutting, language, everything but the model.

    python benchmarks/ingest.py FOLDER [--workers N] [--passage-tokens N]

A page is 3,000 characters of text, or a page of a PDF. The first worker's start is measured apart, since it does not grow with
the folder. The same folder is then read again, with what was parsed before. CPU seconds are those of all processes, since a
busy machine makes the clock say little. The last line of stdout is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.language import language_of
from shoptalk.corpus.pool import Job, Pool
from shoptalk.corpus.reading import Reading, read_documents
from shoptalk.models.finding import find_model
from shoptalk.settings import BUILTIN_MODEL, IngestSettings

PAGE_CHARS = 3_000


def cpu_seconds() -> float:
    """User and system time of this process and of the children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def pages_of(reading: Reading) -> float:
    """PDF pages as they are, all other text by its length."""
    pdf = sum(int(row.get("pages", 0)) for row in reading.files if str(row["file"]).lower().endswith(".pdf"))
    characters = sum(len(p.text) for p in reading.passages if not p.source.lower().endswith(".pdf"))
    return pdf + characters / PAGE_CHARS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--workers", type=int, default=0)
    options.add_argument("--passage-tokens", type=int, default=200)
    chosen = options.parse_args()
    settings = IngestSettings(workers=chosen.workers, passage_tokens=chosen.passage_tokens)
    started = time.perf_counter()
    chunker = Chunker(find_model(BUILTIN_MODEL).path / "tokenizer.json", settings.passage_tokens)
    language_of("The language model is loaded once, at the first text that is long enough.")
    with Pool(settings, 1) as pool:
        pool.one(Job(".html", "page", b"<body><main><p>Some text of a page.</p></main></body>"))
    startup_s = time.perf_counter() - started
    record: dict[str, object] = {"startup_s": round(startup_s, 2)}
    with tempfile.TemporaryDirectory() as folder:
        cache, scratch = Path(folder) / "cache", Path(folder) / "scratch"
        for name in ("first", "again"):
            begun, cpu = time.perf_counter(), cpu_seconds()
            reading = read_documents(chosen.folder, chunker, settings, cache, scratch)
            seconds, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
            pages = pages_of(reading)
            record[name] = {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "pages_per_second": round(pages / seconds, 1),
                "pages_per_cpu_second": round(pages / cpu, 1),
            }
            print(f"{name}: {pages:.0f} pages in {seconds:.1f} s ({cpu:.1f} s of CPU)")
    record |= {"pages": round(pages), "passages": len(reading.passages), "skipped": len(reading.skipped)}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
