"""Which offline queries are worth training on? Yields of every kind on a BEIR folder and, with --train, what training on it gives.

Only a set's train part is used (see recipe.py): test judgements are not even copied. The judgements of the train part are split again;
its dev and test splits are people's queries, and the passages of its training queries are what offline queries are made from.
The row "human" says what the checks would reject of people's own training queries: a check that rejects many of those is too strict.

With --train every kind is trained on alone, as are all of them and people's own queries, these without and with mined hard
negatives and a second round of mining, on the same passages; each is scored by nDCG@10 on the held-out people's queries of this
split, against the base model. The last line is one line of JSON.

    python benchmarks/queries.py --data BEIR_FOLDER --kinds heading sentence --train --common model.max_tokens=128
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from recipe import train_part

import shoptalk
from shoptalk.beir import read_dataset, read_jsonl, write_dataset, write_jsonl
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.queries.generators import GENERATORS, Draft, generate_drafts
from shoptalk.queries.judging import Judged, cut_passages, judge_drafts
from shoptalk.queries.naming import text_query_id
from shoptalk.queries.yields import yields
from shoptalk.records import Dataset, Passage, Query
from shoptalk.retrieval.metrics import PRIMARY, of_metric, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.retrieval.significance import paired_delta
from shoptalk.settings import Settings, with_values

_FEWEST = 20
_HARD = {
    "human + hard negatives": ["negatives.mine=3"],
    "human + hard negatives, no BM25": ["negatives.mine=3", "negatives.bm25_share=0"],
    "human + hard negatives, two rounds": ["negatives.mine=3", "negatives.rounds=2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(GENERATORS), choices=list(GENERATORS))
    parser.add_argument("--common", nargs="*", default=[], help="settings of every run, as in queries.round_trip_k=10")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=1_000, help="training queries of each kind, at most")
    parser.add_argument(
        "--rows", nargs="+", help="train only these: kinds, 'all offline', 'human', 'human + hard negatives' ..."
    )
    parser.add_argument("--train", action="store_true")
    arguments = parser.parse_args()
    fixed = [f"seed={arguments.seed}", "dataset.test_share=0.25", "dataset.min_test=20"]
    settings = with_values(Settings(), [*fixed, *arguments.common])
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "split"
        shoptalk.run(
            train_part(arguments.data, Path(folder) / arguments.data.name), run, settings=settings, until="dataset"
        )
        dataset = read_dataset(run / "dataset", ["train", "dev", "test"])
        base = CachedEncoder(find_model(settings.model.base), settings.model, run / "cache")
        judged = judge_each(dataset, arguments.kinds, settings, base)
        for name, found in judged.items():
            print(json.dumps({"kind": name} | account(found, settings), ensure_ascii=False), flush=True)
        result: dict[str, Any] = {name: round(share(found), 4) for name, found in judged.items()}
        if arguments.train:
            result = train_each(dataset, judged, settings, arguments, Path(folder))
    print(json.dumps({"data": arguments.data.name, "kept" if not arguments.train else PRIMARY: result}))


def judge_each(dataset: Dataset, kinds: list[str], settings: Settings, base: CachedEncoder) -> dict[str, Judged]:
    """Every kind judged by itself over the whole corpus, drafted from the training passages; and people's training queries."""
    corpus = list(dataset.passages.values())
    asked = {p for found in dataset.qrels["train"].values() for p, grade in found.items() if grade > 0}
    own = [passage for passage in corpus if passage.passage_id in asked]
    human = [
        Draft(dataset.queries[q].text, tuple(p for p, grade in found.items() if grade > 0), "human", origin="human")
        for q, found in dataset.qrels["train"].items()
    ]
    judged = {"human": judge_drafts(human, corpus, settings.queries, base)}
    for kind in kinds:
        started = time.monotonic()
        drafts = generate_drafts(own, [kind])
        judged[kind] = judge_drafts(drafts, corpus, settings.queries, base)
        print(f"{kind}: {len(drafts)} drafts judged in {time.monotonic() - started:.0f} s", flush=True)
    return judged


def account(judged: Judged, settings: Settings) -> dict[str, Any]:
    """Drafted, kept, rejected by check, and examples; {} where nothing was drafted."""
    return next(iter(yields(judged.kept, judged.refused, settings.queries)["kinds"].values()), {})


def share(judged: Judged) -> float:
    """What is kept of all drafts."""
    return len(judged.kept) / max(1, len(judged.kept) + len(judged.refused))


def train_each(
    dataset: Dataset, judged: dict[str, Judged], settings: Settings, arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """nDCG@10 on held-out people's queries: of the base model, and after training on each kind alone, on all, and on people's own."""
    everything = [draft for name, found in judged.items() if name != "human" for draft in found.kept]
    parts = {name: found.kept for name, found in judged.items()} | {"all offline": everything}
    parts["human"] += [one.draft for one in judged["human"].refused]
    base = per_held_out(
        CachedEncoder(find_model(settings.model.base), settings.model, folder / "split" / "cache"), dataset
    )
    scores: dict[str, Any] = {"base": round(statistics.mean(base.values()), 4)}
    runs = [(name, drafts, settings) for name, drafts in parts.items()]
    for name, extra in _HARD.items():
        runs.append((name, parts["human"], with_values(settings, extra)))
    for name, drafts, settings in runs:
        if arguments.rows and name not in arguments.rows:
            continue
        chosen = drafts[:: -(-len(drafts) // arguments.most)] if drafts else []
        if len(chosen) < _FEWEST:
            print(f"{name}: {len(chosen)} queries are too few to train on", flush=True)
            continue
        run = folder / f"train-{name.replace(' ', '-')}"
        started = time.monotonic()
        shoptalk.run(write_source(dataset, chosen, folder / f"data-{run.name}"), run, settings=settings, until="select")
        tuned = CachedEncoder(find_model(str(run / "model")), settings.model, run / "cache")
        delta = paired_delta(base, per_held_out(tuned, dataset), dataset.groups, 10_000, arguments.seed)
        log = [row["dev"] for _, row in read_jsonl(run / "candidates" / "log.jsonl") if "dev" in row]
        scores[name] = {
            "queries": len(chosen),
            "change": round(delta.value, 4),
            "ci95": [round(end, 4) for end in delta.ci95],
            "dev": [round(score, 4) for score in log],
            "seconds": round(time.monotonic() - started),
        }
        print(json.dumps({name: scores[name]}), flush=True)
    return scores


def write_source(dataset: Dataset, drafts: list[Draft], folder: Path) -> Path:
    """A BEIR folder that trains on the drafts, over passages with what became queries cut out, and has people's dev and test."""
    queries = {text_query_id(d.text): Query(text_query_id(d.text), d.text, d.origin, d.kind) for d in drafts}
    passages: list[Passage] = cut_passages(list(dataset.passages.values()), drafts)
    write_dataset(
        folder,
        Dataset(
            "retrieval",
            passages={p.passage_id: p for p in passages},
            queries=queries | {q: dataset.queries[q] for split in ("dev", "test") for q in dataset.qrels[split]},
            qrels={
                "train": {text_query_id(d.text): dict.fromkeys(d.passage_ids, 1) for d in drafts},
                "dev": dataset.qrels["dev"],
                "test": dataset.qrels["test"],
            },
        ),
    )
    write_jsonl(folder / "made.jsonl", ({"text": d.text, "kind": d.kind, "cut": d.cut} for d in drafts))
    return folder


def per_held_out(encoder: CachedEncoder, dataset: Dataset) -> dict[str, float]:
    """nDCG@10 of every held-out query in the corpus as it is, nothing cut out."""
    qrels = dataset.qrels["test"]
    return of_metric(per_query(qrels, rank(encoder, dataset, list(qrels), 10), [PRIMARY]), PRIMARY)


if __name__ == "__main__":
    main()
