"""The comparison's three promises: flat memory, no second encoding, and hardly ever `ship` where there is nothing to ship.

    memory   random vectors kept, read back and ranked in every form by the real store and search, in a process for each size. Shown is
             the peak of anonymous memory (what a process cannot give back; the vectors lie in files) less what the imports took, and
             the peak of everything, mapped files included
    cache    models over a BEIR folder, twice, by the public compare_models; the second time must encode nothing
    null     real per-query differences with their signs flipped by cluster at random, each flip judged
             by the public paired_delta and judge; the share of `ship`

The last line is one line of JSON.

    OMP_NUM_THREADS=1 python benchmarks/evaluating.py memory --passages 100000 300000 1000000
    OMP_NUM_THREADS=1 python benchmarks/evaluating.py cache --data shared/data/medquad --tokens 16
    OMP_NUM_THREADS=1 python benchmarks/evaluating.py null --differences tests/evaluation/differences.json --flips 10000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    memory = parts.add_parser("memory")
    memory.add_argument("--passages", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    memory.add_argument("--queries", type=int, default=500)
    memory.add_argument("--dim", type=int, default=384)
    memory.add_argument(
        "--folder", help="on the disk that holds the vectors; default: the system's for temporary files"
    )
    memory.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    cache = parts.add_parser("cache")
    cache.add_argument("--data", type=Path, required=True)
    cache.add_argument(
        "--tokens", type=int, default=16, help="length that texts are cut to: the first time is not the point"
    )
    cache.add_argument("--models", type=int, default=3)
    null = parts.add_parser("null")
    null.add_argument("--differences", type=Path, default=Path("tests/evaluation/differences.json"))
    null.add_argument("--flips", type=int, default=10_000)
    null.add_argument("--resamples", type=int, default=1_000)
    arguments = parser.parse_args()
    result = {"memory": measure_memory, "cache": measure_cache, "null": measure_null}[arguments.part](arguments)
    print(json.dumps({arguments.part: result}))


# Memory


def measure_memory(arguments: argparse.Namespace) -> object:
    if arguments.one:
        return _one_size(arguments)
    sizes = []
    for n in arguments.passages:
        command = [
            sys.executable,
            __file__,
            "memory",
            "--one",
            "--passages",
            str(n),
            "--queries",
            str(arguments.queries),
        ]
        command += ["--dim", str(arguments.dim), *(["--folder", arguments.folder] if arguments.folder else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout.splitlines()[-1])["memory"])
        print(sizes[-1], flush=True)
    return sizes


def _one_size(arguments: argparse.Namespace) -> dict[str, object]:
    from shoptalk.models.store import VectorStore, encode_once
    from shoptalk.retrieval.compression import Form, search_form

    n, dim = arguments.passages[0], arguments.dim
    queries = random_vectors(range(arguments.queries), dim)
    seconds = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, Peak() as peak:
        store = VectorStore(Path(folder))
        texts = Numbers(n)  # the texts themselves would take memory that is the corpus's, not the comparison's
        for name in ("encode", "read"):
            started = time.monotonic()
            passages = encode_once(store, texts, lambda: lambda part: random_vectors(map(int, part), dim))
            seconds[name] = round(time.monotonic() - started, 1)
        for form in (Form(dim), Form(dim // 2), Form(dim, "int8"), Form(dim, "binary")):
            started = time.monotonic()
            found, _ = search_form(queries, passages, form, 100)
            seconds[f"{form.dimensions} {form.precision}"] = round(time.monotonic() - started, 1)
            assert found.shape == (len(queries), 100)
            assert form.dimensions < dim or np.mean(found[:, 0] == np.arange(len(queries))) > 0.99
    return {
        "passages": n,
        "dim": dim,
        "vectors_mb": round(n * dim * 4 / 1e6),
        "anonymous_mb": round(peak.anonymous - peak.before),
        "with_mapped_files_mb": round(peak.everything),
        "seconds": seconds,
    }


class Numbers(Sequence[str]):
    """Texts "0", "1", ... that take no memory."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: object) -> str:
        if not 0 <= int(place) < self.n:  # type: ignore[call-overload]
            raise IndexError
        return str(place)


def random_vectors(numbers: object, dim: int) -> np.ndarray:
    rows = np.array([np.random.default_rng(number).standard_normal(dim, np.float32) for number in numbers])  # type: ignore[attr-defined]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Peak:
    """The highest anonymous and whole resident memory of this process, looked at every 5 ms. MB; Linux."""

    def __enter__(self) -> "Peak":
        self.before = self.anonymous = _status("RssAnon")
        self.everything = _status("VmRSS")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.anonymous = max(self.anonymous, _status("RssAnon"))
            self.everything = max(self.everything, _status("VmRSS"))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


# Cache


def measure_cache(arguments: argparse.Namespace) -> dict[str, object]:
    from shoptalk import compare_models
    from shoptalk.models import encoder as module
    from shoptalk.settings import make_settings

    settings = make_settings({"model": {"max_tokens": arguments.tokens}})
    encoded = {"texts": 0}
    real = module.TorchEncoder._encode_unique

    def counted(self: object, texts: list[str], role: str) -> np.ndarray:
        encoded["texts"] += len(texts)
        return real(self, texts, role)  # type: ignore[arg-type]

    module.TorchEncoder._encode_unique = counted  # type: ignore[method-assign, assignment]
    times, counts, records = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder), arguments.models)
        for _ in range(2):
            encoded["texts"] = 0
            started = time.monotonic()
            record = compare_models(models, arguments.data, settings=settings, cache=Path(folder) / "cache")
            times.append(round(time.monotonic() - started, 2))
            counts.append(encoded["texts"])
            records.append({name: round(found["ndcg@10"], 6) for name, found in record["systems"].items()})
    return {
        "passages": record["dataset"]["passages"],
        "queries": record["dataset"]["queries"],
        "models": len(models),
        "tokens": arguments.tokens,
        "seconds": {"first": times[0], "second": times[1]},
        "texts_encoded": {"first": counts[0], "second": counts[1]},
        "same_metrics": records[0] == records[1],
    }


def _models(folder: Path, n: int) -> list[str]:
    """The builtin model and copies of it with slightly different weights."""
    from sentence_transformers import SentenceTransformer

    from shoptalk.models.finding import find_model
    from shoptalk.settings import BUILTIN_MODEL

    names = [BUILTIN_MODEL]
    for number in range(1, n):
        model = SentenceTransformer(str(find_model(BUILTIN_MODEL).path), device="cpu")
        for parameter in model.parameters():
            parameter.data.mul_(1 + 0.002 * number)
        model.save(str(folder / f"copy-{number}"))
        names.append(str(folder / f"copy-{number}"))
    return names


# Null


def measure_null(arguments: argparse.Namespace) -> dict[str, object]:
    rows = json.loads(arguments.differences.read_text(encoding="utf-8"))
    started = time.monotonic()
    found = null_verdicts(rows["base"], rows["tuned"], rows["groups"], arguments.flips, arguments.resamples)
    words, n = [word for word, _ in found], len(found)
    return {
        "queries": len(rows["base"]),
        "groups": len(set(rows["groups"].values())),
        "flips": n,
        "resamples": arguments.resamples,
        "ship": words.count("ship") / n,
        "ship_and_p_under_0.05": sum(word == "ship" and p < 0.05 for word, p in found) / n,
        "do_not_ship": words.count("do-not-ship") / n,
        "seconds": round(time.monotonic() - started),
    }


def null_verdicts(
    base: dict[str, float], tuned: dict[str, float], groups: dict[str, str], flips: int, resamples: int
) -> list[tuple[str, float]]:
    """Verdict and p-value of a difference that is zero on average: base and tuned swapped at random for every group."""
    from shoptalk.evaluation.verdict import judge
    from shoptalk.retrieval.metrics import PRIMARY
    from shoptalk.retrieval.significance import paired_delta
    from shoptalk.settings import BaselineSettings, EvaluateSettings

    rng = np.random.default_rng(12)
    names = sorted(set(groups.values()))
    found = []
    for flip in range(flips):
        swapped = dict(zip(names, rng.random(len(names)) < 0.5, strict=True))
        before = {q: tuned[q] if swapped[groups[q]] else base[q] for q in base}
        after = {q: base[q] if swapped[groups[q]] else tuned[q] for q in base}
        delta = paired_delta(before, after, groups, resamples, flip)
        verdict = judge({PRIMARY: delta}, PRIMARY, len(base), "human", 2_000, EvaluateSettings(), BaselineSettings())
        found.append((verdict.word, delta.p))
    return found


if __name__ == "__main__":
    main()
