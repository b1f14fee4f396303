"""What does tuning cost elsewhere? Domain gain against general and cross-lingual retention, from base to tuned weights.

Only a set's train part is used, split again as recipe.py does it. At every weight: nDCG@10 on held-out queries of the domain, on both
halves of the retention set that is shipped and, with --languages, on a BEIR folder with a qrels file for each language
(qrels/test-de.tsv ...).
The last line is one line of JSON: the rows, and what select would ship.

    python benchmarks/frontier.py --data BEIR_FOLDER --sizes 300 --seeds 1 --languages BEIR_FOLDER --common model.max_tokens=128
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from recipe import held_out, train_part

import shoptalk
from shoptalk.beir import read_dataset, read_passages, read_qrels, read_queries
from shoptalk.evaluation.retention import mean, retention_set
from shoptalk.models.encoder import CachedEncoder, Encoder
from shoptalk.models.finding import find_model
from shoptalk.models.interpolation import interpolate
from shoptalk.records import Dataset
from shoptalk.retrieval.metrics import PRIMARY, of_metric, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import Settings, with_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300], help="training queries")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--held-out", type=int, default=200, help="queries that score, at most")
    parser.add_argument("--haystack", type=int, default=600, help="passages that dev and held-out queries search")
    parser.add_argument("--languages", type=Path, help="BEIR folder with qrels/test-LANGUAGE.tsv")
    parser.add_argument(
        "--wanted", nargs="+", default=["en", "de", "es", "ro", "ru", "zh"], help="languages to measure"
    )
    parser.add_argument("--common", nargs="*", default=[], help="settings of every run")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = train_part(arguments.data, Path(folder) / arguments.data.name)
        for size in arguments.sizes:
            for seed in arguments.seeds:
                for row in measure(data, Path(folder) / f"{size}-{seed}", size, seed, arguments):
                    rows.append({"data": data.name, "size": size, "seed": seed} | row)
                    print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"shipped": [row for row in rows if row["chosen"]], "rows": rows}))


def measure(data: Path, run: Path, size: int, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every weight of one training."""
    fixed = [
        f"seed={seed}", f"dataset.max_train={size}", "dataset.test_share=0.25", "dataset.min_test=20",
        f"train.max_dev_queries={max(20, round(0.23 * size))}", f"train.dev_haystack={arguments.haystack}",
    ]  # fmt: skip
    settings = with_values(Settings(), [*fixed, *arguments.common])
    shoptalk.run(data, run, settings=settings, until="select")
    dataset = read_dataset(run / "dataset", ["train", "dev", "test"])
    base = find_model(settings.model.base)
    part = held_out(dataset, CachedEncoder(base, settings.model, run / "cache"), settings, arguments.held_out)
    general = retention_set(settings.select)
    assert general is not None
    choice = json.loads((run / "model" / "shoptalk.json").read_text(encoding="utf-8"))
    inner = tuple(p["weight"] for p in choice["frontier"] if 0 < p["weight"] < 1)
    best = find_model(str(run / "candidates" / "best"))
    models = {0.0: base, 1.0: best}
    models |= {
        weight: find_model(str(path))
        for weight, path in interpolate(base, best, inner, settings.model, run / "again").items()
    }
    rows = []
    for point in choice["frontier"]:
        encoder = CachedEncoder(models[point["weight"]], settings.model, run / "cache")
        halves = {half: mean(general.measure(encoder, half).general) for half in ("choose", "report")}  # type: ignore[arg-type]
        row = {name: point[name] for name in ("weight", "dev", "chosen", "allowed")}
        row |= {"held_out": score(encoder, part, "dev"), **halves}
        if arguments.languages:
            row["languages"] = languages(encoder, arguments.languages, arguments.wanted)
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def languages(encoder: Encoder, folder: Path, wanted: list[str]) -> dict[str, float]:
    """nDCG@10 by language of the queries."""
    passages = {p.passage_id: p for p in read_passages(folder / "corpus.jsonl")}
    queries = read_queries(folder / "queries.jsonl")
    found = {}
    for name in wanted:
        qrels = read_qrels(folder / "qrels" / f"test-{name}.tsv")
        found[name] = round(score(encoder, Dataset("retrieval", passages, queries, {name: qrels}), name), 4)
    return found


def score(encoder: Encoder, dataset: Dataset, split: str) -> float:
    """nDCG@10 of a split."""
    qrels = dataset.qrels[split]
    values = of_metric(per_query(qrels, rank(encoder, dataset, list(qrels), 10), [PRIMARY]), PRIMARY)
    return statistics.mean(values.values())


if __name__ == "__main__":
    main()
