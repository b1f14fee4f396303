"""Does the part of the haystack that ranks checkpoints rank them as the whole haystack does?

Trains with shoptalk's defaults and scores every evaluation's weights twice: on the part, and on all passages. The last line is one
line of JSON: Kendall's tau of the two, how often they choose the same checkpoint, and what choosing by the part costs.

    python benchmarks/dev_part.py --data BEIR_FOLDER --seeds 1 2 3 --set train.dev_haystack=500 train.evaluations=8
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

import shoptalk
from shoptalk.beir import read_dataset
from shoptalk.settings import Settings, with_values
from shoptalk.training.choosing import METRIC
from shoptalk.training.dev import DevScore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    rows = [measure(arguments.data, seed, arguments.set) for seed in arguments.seeds]
    print(
        json.dumps(
            {
                "data": arguments.data.name,
                "kendall_tau": [row["tau"] for row in rows],
                "same_choice": sum(row["lost"] == 0 for row in rows),
                "lost_by_choosing_on_the_part": [row["lost"] for row in rows],
                "runs": rows,
            }
        )
    )


def measure(data: Path, seed: int, settings: list[str]) -> dict[str, Any]:
    scores: list[tuple[float, float]] = []
    call = DevScore.__call__

    def both(self: DevScore, model: Any, *given: Any, **named: Any) -> dict[str, float]:
        found = call(self, model, *given, **named)
        if named or len(given) > 1:  # the trainer's calls carry epoch and steps
            whole = DevScore(read_dataset(Path(folder) / "run" / "dataset", ["train", "dev"]), self.hardware)
            scores.append((found[METRIC], call(whole, model)[METRIC]))
        return found

    with tempfile.TemporaryDirectory() as folder:
        DevScore.__call__ = both  # type: ignore[method-assign]
        try:
            values = with_values(Settings(), [f"seed={seed}", "train.patience=100", *settings])
            shoptalk.run(data, Path(folder) / "run", settings=values, until="train")
        finally:
            DevScore.__call__ = call  # type: ignore[method-assign]
    part, whole = zip(*scores, strict=True)
    chosen = part.index(max(part))
    return {
        "seed": seed,
        "tau": round(float(kendalltau(part, whole).statistic), 3),
        "lost": round(max(whole) - whole[chosen], 4),
        "part": [round(value, 4) for value in part],
        "whole": [round(value, 4) for value in whole],
    }


if __name__ == "__main__":
    main()
