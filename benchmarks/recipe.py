"""Which training settings win on dev? Runs the pipeline up to `train` for each variant and prints dev nDCG@10.

The test split is never opened: the stages stop before `evaluate`. Every variant of one set, size and seed starts from the
same split. The last line is one line of JSON.

    python benchmarks/recipe.py --data BEIR_FOLDER --size 300 --seeds 1 2 --variant a train.learning_rate=3e-5 \
        --variant b train.learning_rate=5e-5 train.batch_size=16
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import shoptalk
from shoptalk.settings import with_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--size", type=int, default=None, help="training queries; all when absent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--common", nargs="*", default=[], help="settings of every variant")
    parser.add_argument("--variant", nargs="+", action="append", required=True, metavar=("NAME", "SETTING"))
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for name, *assignments in arguments.variant:
                fixed = [f"seed={seed}", f"dataset.max_train={arguments.size or 'null'}", *arguments.common]
                settings = with_values(shoptalk.Settings(), [*fixed, *assignments])
                started = time.monotonic()
                shoptalk.run(arguments.data, Path(folder) / "run", settings=settings, until="train")
                training = json.loads((Path(folder) / "run" / "candidates" / "training.json").read_text())
                log = [
                    json.loads(x) for x in (Path(folder) / "run" / "candidates" / "log.jsonl").read_text().splitlines()
                ]
                row = {
                    "data": arguments.data.name, "size": arguments.size, "seed": seed, "variant": name,
                    "base": training["base_dev"], "best": training["best_dev"], "steps": training["steps_done"],
                    "last": [entry["dev"] for entry in log if "dev" in entry][-1],
                    "best_step": training["best_step"], "seconds": round(time.monotonic() - started),
                }  # fmt: skip
                rows.append(row)
                print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
                shutil.rmtree(Path(folder) / "run" / "candidates")
    names = [name for name, *_ in arguments.variant]
    gains = {name: [row["best"] - row["base"] for row in rows if row["variant"] == name] for name in names}
    print(json.dumps({name: round(sum(found) / len(found), 4) for name, found in gains.items()}))


if __name__ == "__main__":
    main()
