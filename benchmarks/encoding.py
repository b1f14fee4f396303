"""How fast does shoptalk encode passages, against `SentenceTransformer.encode` with its defaults?

Both sides encode the same sample of a BEIR corpus in one process, a part in turn each, so that a busy machine slows both. Each side is
warmed up first. The last line is one line of JSON: `docs_per_s_ratio` is shoptalk's documents per second over the other's, with the
lowest and highest of the parts; `cosine_mean` and `cosine_min` compare the vectors of both, and `order` is the largest difference
of a component when the sample comes in another order (`exact`: none).

    python benchmarks/encoding.py --data BEIR_FOLDER --passages 512 --rounds 5
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from shoptalk.beir import read_passages
from shoptalk.models.encoder import load_encoder
from shoptalk.models.weights import numeric_path
from shoptalk.settings import Settings, with_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--passages", type=int, default=512, help="encoded by each side in each round")
    parser.add_argument("--rounds", type=int, default=3, help="other passages in each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as in model.precision=fp32")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = with_values(Settings(), arguments.set).model
    ours = load_encoder(settings.base, settings)
    theirs = _stock(ours.model, SentenceTransformer, settings.base)
    texts = _sample(arguments.data, arguments.passages * arguments.rounds, arguments.seed)
    for warm in (ours.encode_passages, theirs):
        warm(texts[:16])
    seconds: dict[str, list[float]] = {"shoptalk": [], "stock": []}
    cosines, counts = [], []
    for number, start in enumerate(range(0, len(texts), arguments.passages)):
        part = texts[start : start + arguments.passages]
        sides = [("shoptalk", ours.encode_passages), ("stock", theirs)]
        vectors = {name: _timed(encode, part, seconds[name]) for name, encode in sides[:: 1 if number % 2 else -1]}
        cosines.append(np.sum(vectors["shoptalk"] * vectors["stock"], axis=1))
        counts.append(len(part))
    ratios = [stock / own for stock, own in zip(seconds["stock"], seconds["shoptalk"], strict=True)]
    rates = {
        name: round(median(n / s for n, s in zip(counts, taken, strict=True)), 1) for name, taken in seconds.items()
    }
    order = _order(ours, texts[: arguments.passages], arguments.seed)
    every = np.concatenate(cosines)
    return {
        "data": arguments.data.name,
        "model": settings.base,
        "passages": sum(counts),
        "precision": numeric_path(ours.hardware),
        "threads": torch.get_num_threads(),
        "docs_per_s": rates["shoptalk"],
        "docs_per_s_stock": rates["stock"],
        "docs_per_s_ratio": round(median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "cosine_mean": round(float(every.mean()), 6),
        "cosine_min": round(float(every.min()), 6),
        "order": order or "exact",
        "truncated": ours.encode(texts[: arguments.passages], "document").truncated,
    }


def _stock(model: Any, kind: Any, name: str) -> Callable[[list[str]], np.ndarray]:
    """What most people run: a model as it is loaded, `encode` with its defaults, and the document prompt if there is one."""
    from shoptalk.models.finding import find_model

    stock = kind(str(find_model(name).path), device=str(model.device))
    stock.max_seq_length = model.max_seq_length
    prompt = model.prompts.get("document") or ""
    return lambda texts: np.asarray(stock.encode(texts, prompt=prompt, show_progress_bar=False))


def _sample(data: Path, wanted: int, seed: int) -> list[str]:
    passages = list(dict.fromkeys(passage.content for passage in read_passages(data / "corpus.jsonl")))
    drawn = np.random.default_rng(seed).permutation(len(passages))[:wanted]
    return [passages[int(index)] for index in drawn]


def _timed(encode: Callable[[list[str]], np.ndarray], texts: list[str], taken: list[float]) -> np.ndarray:
    started = time.perf_counter()
    vectors = encode(texts)
    taken.append(time.perf_counter() - started)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _order(encoder: Any, texts: list[str], seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = encoder.encode_passages([texts[int(index)] for index in order])
    return float(np.abs(shuffled - encoder.encode_passages(texts)[order]).max())


if __name__ == "__main__":
    main()
