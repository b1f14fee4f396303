"""Which training settings win? Trains every variant and scores its checkpoints on queries that no choice was made on.

Only a set's train part is used: a copy without the other judgements is split again into train, dev and held-out. Dev has as
many queries as a team with so little training data would have, so that choosing a checkpoint is as noisy here as it is for
them; the held-out score is that of the checkpoint which training keeps. Every variant of one set, size and seed has the same split.
The last line is one line of JSON: the mean gain of each variant over the base model, held-out.

    python benchmarks/recipe.py --data BEIR_FOLDER --sizes 100 300 --seeds 1 2 --common model.max_tokens=128 \
        --variant a train.learning_rate=3e-5 --variant b train.learning_rate=5e-5 train.batch_size=16
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import shoptalk
from shoptalk.beir import read_dataset
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset
from shoptalk.retrieval.haystack import dev_part
from shoptalk.settings import Settings, with_values
from shoptalk.training.choosing import METRIC
from shoptalk.training.dev import DevScore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300], help="training queries")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--held-out", type=int, default=200, help="queries that score, at most")
    parser.add_argument("--haystack", type=int, default=600, help="passages that dev and held-out queries search")
    parser.add_argument("--common", nargs="*", default=[], help="settings of every variant")
    parser.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "SETTING"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = train_part(arguments.data, Path(folder) / arguments.data.name)
        for size in arguments.sizes:
            for seed in arguments.seeds:
                for name, *assignments in arguments.variant:
                    row = measure(data, Path(folder) / f"{size}-{seed}", size, seed, assignments, arguments)
                    rows.append({"data": data.name, "size": size, "seed": seed, "variant": name} | row)
                    print(json.dumps(rows[-1]), flush=True)
    names = dict.fromkeys(row["variant"] for row in rows)
    gains = {name: [row["held_out"] - row["base"] for row in rows if row["variant"] == name] for name in names}
    print(json.dumps({name: round(statistics.mean(found), 4) for name, found in gains.items()}))


def train_part(data: Path, folder: Path) -> Path:
    """A copy of a BEIR folder without the judgements of its test split."""
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        shutil.copyfile(data / name, folder / name)
    return folder


def measure(
    data: Path, run: Path, size: int, seed: int, assignments: list[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train one variant; its dev and held-out score at every evaluation."""
    fixed = [
        f"seed={seed}", f"dataset.max_train={size}", "dataset.test_share=0.25", "dataset.min_test=20", "train.patience=100",
        f"train.max_dev_queries={max(20, round(0.23 * size))}", f"train.dev_haystack={arguments.haystack}",
    ]  # fmt: skip
    settings = with_values(Settings(), [*fixed, *arguments.common, *assignments])
    shutil.rmtree(run / "candidates", ignore_errors=True)
    shoptalk.run(data, run, settings=settings, until="negatives")
    dataset = read_dataset(run / "dataset", ["train", "dev", "test"])
    base = CachedEncoder(find_model(settings.model.base), settings.model, run / "cache")
    part = held_out(dataset, base, settings, arguments.held_out)
    curve: list[tuple[float, float]] = []
    call = DevScore.__call__

    def both(self: DevScore, model: Any, *given: Any, **named: Any) -> dict[str, float]:
        found = call(self, model, *given, **named)
        if named or len(given) > 1:  # the trainer's calls carry epoch and steps
            curve.append((found[METRIC], call(DevScore(part, self.hardware), model)[METRIC]))
        return found

    DevScore.__call__ = both  # type: ignore[method-assign]
    started = time.monotonic()
    try:
        shoptalk.run(out=run, until="train")
    finally:
        DevScore.__call__ = call  # type: ignore[method-assign]
    log = [json.loads(line) for line in (run / "candidates" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in log if "dev" in row]
    before = DevScore(part, call_hardware(settings)).score(base)
    dev_before = log[0]["dev"]
    curve.insert(0, (dev_before, before))
    kept = json.loads((run / "candidates" / "training.json").read_text(encoding="utf-8"))["best_step"]
    highest = max(range(1, len(curve)), key=lambda i: curve[i][0])
    return {
        "base": round(before, 4),
        "held_out": round(curve[steps.index(kept)][1], 4),
        "of_the_highest_on_dev": round(curve[highest][1], 4),
        "last": round(curve[-1][1], 4),
        "best_possible": round(max(score for _, score in curve), 4),
        "kept_step": kept,
        "curve": [(step, round(d, 4), round(h, 4)) for step, (d, h) in zip(steps, curve, strict=True)],
        "seconds": round(time.monotonic() - started),
    }


def held_out(dataset: Dataset, base: CachedEncoder, settings: Settings, n: int) -> Dataset:
    """The held-out queries with a part of the haystack, made as dev's is."""
    swapped = replace(dataset, qrels={"dev": dataset.qrels["test"]})
    train = settings.train.model_copy(update={"max_dev_queries": n})
    return dev_part(swapped, base, train, 1_000 + settings.seed)


def call_hardware(settings: Settings) -> Any:
    """The hardware that a run with these settings uses."""
    from shoptalk.models.hardware import choose_hardware

    return choose_hardware(settings.model, find_model(settings.model.base).model_type)


if __name__ == "__main__":
    main()
