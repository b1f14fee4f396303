"""Memory and exactness of mining hard negatives: random unit vectors, made texts, the real `mine`.

What is measured is the peak of the whole process (interpreter, libraries, texts, BM25's index and all) less the bytes of the
embeddings. The exact search is then held against brute force in double precision, ties in the order of the passages: for all queries
when there are few, else for a sample. The last line is one line of JSON.

    OMP_NUM_THREADS=1 python benchmarks/mining.py --passages 200000 --queries 20000
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence

import numpy as np

from shoptalk.records import Dataset, Passage, Query
from shoptalk.settings import NegativeSettings
from shoptalk.training.mining import Mining, mine

WORDS_A_PASSAGE, WORDS_A_QUERY, VOCABULARY = 100, 8, 100_000


class Prepared:
    """An Encoder whose vectors are there already, one for each text in the order of the texts."""

    digest = "prepared"

    def __init__(self, queries: np.ndarray, passages: np.ndarray) -> None:
        self.queries, self.passages = queries, passages

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.queries

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.passages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--mine", type=int, default=5)
    parser.add_argument(
        "--bm25-share", type=float, default=0.25, help="0 leaves BM25 out, and with it most of the memory"
    )
    parser.add_argument("--check", type=int, default=1_000, help="queries that are held against brute force")
    parser.add_argument("--seed", type=int, default=12)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    passages = unit_vectors(arguments.passages, arguments.dim, rng)
    queries = near(passages[: arguments.queries], rng)
    dataset = made_dataset(arguments.passages, len(queries), rng)
    before = peak_mb()
    settings = NegativeSettings(mine=arguments.mine, depth=arguments.depth, bm25_share=arguments.bm25_share)
    started = time.monotonic()
    found = mine(dataset, Prepared(queries, passages), settings, rng)
    seconds = time.monotonic() - started
    embeddings = (passages.nbytes + queries.nbytes) / 1e6
    peak = peak_mb()
    rows = np.sort(rng.choice(len(queries), min(arguments.check, len(queries)), replace=False))
    print(
        json.dumps(
            {
                "passages": len(passages),
                "queries": len(queries),
                "dim": arguments.dim,
                "depth": arguments.depth,
                "bm25_share": arguments.bm25_share,
                "mined": len(found.mined),
                "seconds": round(seconds, 1),
                "embeddings_mb": round(embeddings),
                "peak_mb": round(peak),
                "peak_before_mining_mb": round(before),
                "beyond_embeddings_mb": round(peak - embeddings),
                "under_2_gb": peak - embeddings < 2_000,
                "queries_checked": len(rows),
                "rows_unlike_brute_force": unlike_brute_force(found, queries, passages, rows),
            }
        )
    )


def peak_mb() -> float:
    """The most memory that this process has had resident, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def unit_vectors(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """(n, dim) float32, made in place. Every hundredth is a copy of the one before it, so that scores tie."""
    vectors = np.empty((n, dim), np.float32)
    for start in range(0, n, 4_096):
        block = vectors[start : start + 4_096]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    vectors[99::100] = vectors[98::100][: len(vectors[99::100])]
    return vectors


def near(answers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A query beside each answer, at a cosine of about 0.7."""
    queries = answers + rng.standard_normal(answers.shape, dtype=np.float32) / np.sqrt(
        answers.shape[1], dtype=np.float32
    )
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def made_dataset(n_passages: int, n_queries: int, rng: np.random.Generator) -> Dataset:
    """Texts of words as frequent as Zipf has them; query i is answered by passage i, and shares half of its words."""
    ids = [f"p{i}" for i in range(n_passages)]
    passages, queries = {}, {}
    for place, passage_id in enumerate(ids):
        words = rng.zipf(1.2, WORDS_A_PASSAGE) % VOCABULARY
        passages[passage_id] = Passage(passage_id, " ".join(f"w{word}" for word in words))
        if place < n_queries:
            asked = [*rng.choice(words, WORDS_A_QUERY // 2), *(rng.zipf(1.2, WORDS_A_QUERY // 2) % VOCABULARY)]
            queries[f"q{place}"] = Query(f"q{place}", " ".join(f"w{word}" for word in asked))
    qrels = {query_id: {f"p{place}": 1} for place, query_id in enumerate(queries)}
    return Dataset("retrieval", passages, queries, {"train": qrels}, {passage_id: passage_id for passage_id in ids})


def unlike_brute_force(found: Mining, queries: np.ndarray, passages: np.ndarray, rows: np.ndarray) -> int:
    """How many of the queries have other passages, another order or other scores than a full sort of all products gives."""
    searched, unlike = found.searched, 0
    depth = searched.indices.shape[1]
    for start in range(0, len(rows), 64):
        some = rows[start : start + 64]
        asked = queries[some].astype(np.float64)
        products = np.concatenate(
            [
                (asked @ passages[at : at + 16_384].astype(np.float64).T).astype(np.float32)
                for at in range(0, len(passages), 16_384)
            ],
            axis=1,
        )
        best = np.argsort(-products, axis=1, kind="stable")[:, :depth]
        same = (best == searched.indices[some]).all(axis=1)
        same &= (np.take_along_axis(products, best, axis=1) == searched.scores[some]).all(axis=1)
        unlike += int((~same).sum())
    return unlike


if __name__ == "__main__":
    main()
