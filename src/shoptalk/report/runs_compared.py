"""Finished runs side by side: what each says, what differs between their settings, data and findings, and their tuned models
query by query, where the same queries were asked of the same passages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from shoptalk.beir import read_jsonl, read_qrels
from shoptalk.errors import DamagedArtifact, InputError
from shoptalk.report.history import Run, look_at, read_values
from shoptalk.report.wording import p_value, plain, shown, signed
from shoptalk.retrieval.significance import holm, paired_delta, spearman_delta
from shoptalk.workspace import Workspace

_CHANGED = 1e-9
_ABSENT: Any = object()


@dataclass(frozen=True)
class _Opened:
    """A finished run with what the comparison needs: its settings by dotted name and its folders, verified."""

    name: str
    run: Run
    result: Mapping[str, Any]
    settings: Mapping[str, Any]
    dataset: Path
    evaluation: Path
    corpus: str

    @property
    def metric(self) -> str:
        return str(self.result["metric"])


def compare_runs(folders: Sequence[Path], stages: Sequence[str]) -> dict[str, Any]:
    """The record that `shoptalk report RUN_A RUN_B --json` prints. The first run is the one that the others are held against.

    {"runs": [...], "settings": {key: {run: value}}, "paired": [...], "findings": {name: {run: severity}}}: settings and
    findings only where the runs differ; "paired" has an entry for each further run, with "comparable" and, where it is, the delta of
    the tuned models on the queries that both tests have. Raises InputError for a run that is not finished, DamagedArtifact.
    """
    opened = [_open(folder, stages) for folder in folders]
    names = [one.name for one in opened]
    repeated = next((one.name for one in opened if names.count(one.name) > 1), None)
    if repeated is not None:
        raise InputError(f"{repeated}: named twice; name different run folders")
    paired = [_pair(opened[0], other) for other in opened[1:]]
    tested = {pair["run"]: pair["delta"]["p"] for pair in paired if pair["comparable"]}
    if len(tested) > 1:
        corrected = holm(tested)
        for pair in paired:
            if pair["comparable"]:
                pair["delta"]["p_holm"] = corrected[pair["run"]]
    return {
        "runs": [_figures(one) for one in opened],
        "settings": _differing({one.name: one.settings for one in opened}),
        "paired": paired,
        "findings": _differing({one.name: _findings(one) for one in opened}),
    }


def _open(folder: Path, stages: Sequence[str]) -> _Opened:
    run = look_at(folder, stages)
    if run.state == "damaged":
        raise DamagedArtifact(run.words)
    if run.result is None:
        raise InputError(f"{folder}: {run.words}; finish it with `shoptalk run --out {folder}`, then compare")
    workspace = Workspace(folder)
    dataset = workspace.read("dataset")
    return _Opened(
        name=str(folder),
        run=run,
        result=run.result,
        settings=_flat(read_values(folder)),
        dataset=dataset,
        evaluation=workspace.read("evaluation"),
        corpus=str(workspace.rows["dataset"].files.get("corpus.jsonl", {}).get("sha256", "")),
    )


def _figures(one: _Opened) -> dict[str, Any]:
    result = one.result
    kept = ("reasons", "dataset", "won", "lost", "unchanged", "base_model", "retention")
    return (
        one.run.as_json()
        | {name: result[name] for name in kept if name in result}
        | {"metrics": {side: result[side] for side in ("base", "tuned", "delta")}}
        | {"findings": [{key: f[key] for key in ("name", "severity")} for f in result["findings"]]}
    )


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} as {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{above}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
    return flat


def _findings(one: _Opened) -> dict[str, str]:
    return {finding["name"]: finding["severity"] for finding in one.result["findings"]}


def _differing(by_run: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key -> run -> value, for the keys that are not the same everywhere; a run that has no such key is left out."""
    keys = dict.fromkeys(key for values in by_run.values() for key in values)
    table = {key: {run: values.get(key, _ABSENT) for run, values in by_run.items()} for key in keys}
    return {
        key: {run: value for run, value in row.items() if value is not _ABSENT}
        for key, row in table.items()
        if any(one is _ABSENT or other is _ABSENT or one != other for one, other in pairwise(row.values()))
    }


def _pair(first: _Opened, other: _Opened) -> dict[str, Any]:
    """The tuned model of `other` against that of `first`, or why that cannot be."""
    head = {"run": other.name, "against": first.name}
    if first.metric != other.metric:
        return head | _not_comparable(
            f"one run is decided by {shown(first.metric)}, the other by {shown(other.metric)}: nothing to compare query by query"
        )
    passages = _passages_differ(first, other)
    if passages:
        return head | _not_comparable(f"{passages}: {shown(first.metric)} over different haystacks cannot be compared")
    before, after = _tested(first), _tested(other)
    common = [key for key in before if key in after]
    asked = "scored pairs" if first.metric == "spearman" else "queries"
    if not common:
        return head | _not_comparable(f"the test {asked} are not the same: there is nothing to compare them on")
    left = (len(before) - len(common), len(after) - len(common))
    words = f"on the same {len(common):,} test {asked}"
    if any(left):
        words = (
            f"on the {len(common):,} test {asked} that both runs have with the same judgements; {left[0]:,} of {first.name} and "
            f"{left[1]:,} of {other.name} are left out"
        )
    return head | {
        "comparable": True,
        "words": words,
        "metric": first.metric,
        "queries": len(common),
        "left_out": list(left),
        **_delta(first, [before[key] for key in common], [after[key] for key in common]),
    }


def _not_comparable(why: str) -> dict[str, Any]:
    return {"comparable": False, "words": f"not compared query by query: {why}. Each gain stands for its own test only"}


def _tested(one: _Opened) -> dict[Any, dict[str, Any]]:
    """The rows of the test by what was asked and what counts as right, since ids of two runs may mean different things."""
    rows = [row for _, row in read_jsonl(one.evaluation / "per_query.jsonl")]
    if one.metric == "spearman":
        return {(row["text"], row["score"]): row for row in rows}
    qrels = read_qrels(one.dataset / "qrels" / "test.tsv")
    return {(row["text"], frozenset(qrels[row["query_id"]].items())): row for row in rows}


def _delta(first: _Opened, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    resamples, seed = int(first.settings["evaluate.resamples"]), int(first.settings["seed"])
    names = [str(i) for i in range(len(before))]
    groups = [str(row["group"]) for row in before]
    if first.metric == "spearman":
        one, other = ([float(row["tuned"]["cosine"]) for row in rows] for rows in (before, after))
        gold = [float(row["score"]) for row in before]
        delta = spearman_delta(gold, one, other, groups, resamples, seed)
        return {"groups": len(set(groups)), "delta": delta.as_json()}
    one, other = ([float(row["tuned"][first.metric]) for row in rows] for rows in (before, after))
    by_name = dict(zip(names, groups, strict=True))
    delta = paired_delta(
        dict(zip(names, one, strict=True)), dict(zip(names, other, strict=True)), by_name, resamples, seed
    )
    changes = [b - a for a, b in zip(one, other, strict=True)]
    won, lost = sum(change > _CHANGED for change in changes), sum(change < -_CHANGED for change in changes)
    return {
        "groups": len(set(groups)),
        "tuned": {"against": sum(one) / len(one), "run": sum(other) / len(other)},
        "delta": delta.as_json(),
        "won": won,
        "lost": lost,
        "unchanged": len(changes) - won - lost,
    }


def _passages_differ(first: _Opened, other: _Opened) -> str:
    """In words, how the corpora differ; "" for the same texts, wherever their documents lie."""
    if first.metric == "spearman" or first.corpus == other.corpus:
        return ""
    one, two = _texts(first.dataset), _texts(other.dataset)
    if one == two:
        return ""
    changed = sum(1 for name in one.keys() & two.keys() if one[name] != two[name])
    return (
        f"the passages differ ({len(one.keys() - two.keys()):,} only in {first.name}, {len(two.keys() - one.keys()):,} only in "
        f"{other.name}, {changed:,} with another text)"
    )


def _texts(dataset: Path) -> dict[str, int]:
    """A hash of every passage's title and text, enough to tell two corpora of one process apart."""
    return {
        str(row["_id"]): hash((str(row.get("title") or ""), row["text"]))
        for _, row in read_jsonl(dataset / "corpus.jsonl")
    }


# In words


def figures(record: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The key figures, a row each with a cell a run; "" where a run has none."""
    runs = record["runs"]
    rows: list[tuple[str, list[str]]] = [
        ("verdict", [run["verdict"] for run in runs]),
        ("gate", [run["gate"] for run in runs]),
        ("metric", [shown(run["metric"]) for run in runs]),
        ("base", [plain(run["base"]) for run in runs]),
        ("tuned", [plain(run["tuned"]) for run in runs]),
        ("gain", [signed(run["delta"]["value"]) for run in runs]),
        ("95% interval", [_interval(run["delta"]) for run in runs]),
        ("better, worse, unchanged", [f"{run['won']:,}, {run['lost']:,}, {run['unchanged']:,}" for run in runs]),
        ("on general text", [_kept(run, "general") for run in runs]),
        ("in other languages", [_kept(run, "cross_lingual") for run in runs]),
        ("findings", [severities(Counter(f["severity"] for f in run["findings"])) for run in runs]),
        ("test", [f"{run['dataset']['queries']['test']:,} ({run['dataset']['test_origin']})" for run in runs]),
        ("training pairs", [f"{run['dataset']['training_pairs']:,}" for run in runs]),
        ("passages", [f"{run['dataset']['passages']:,}" for run in runs]),
        ("base model", [run["base_model"]["name"] for run in runs]),
        ("source", [run["source"] for run in runs]),
        ("date", [run["date"][:16].replace("T", " ") for run in runs]),
        ("minutes", [f"{run['minutes']:.1f}" for run in runs]),
    ]
    return [(label, cells) for label, cells in rows if any(cells)]


def pairs_in_words(record: Mapping[str, Any]) -> list[str]:
    """What is known of each further run's tuned model against that of the first."""
    return [_in_words(pair) for pair in record["paired"]]


def severities(found: Mapping[str, int]) -> str:
    """1 high, 2 warning; none."""
    return ", ".join(f"{found[name]} {name}" for name in ("high", "warning", "info") if found.get(name)) or "none"


def _in_words(pair: Mapping[str, Any]) -> str:
    head = f"{pair['run']} against {pair['against']}"
    if not pair["comparable"]:
        return f"{head}: {pair['words']}"
    delta = pair["delta"]
    low, high = delta["ci95"]
    says = "better" if low > 0 else "worse" if high < 0 else "no difference can be told from chance"
    holm = f", Holm {p_value(delta['p_holm'])}" if "p_holm" in delta else ""
    changed = (
        f"; {pair['won']:,} better, {pair['lost']:,} worse, {pair['unchanged']:,} unchanged" if "won" in pair else ""
    )
    return (
        f"{head}: {says}. {shown(pair['metric'])} {signed(delta['value'])} (95% interval {_interval(delta)}, p {p_value(delta['p'])}"
        f"{holm}) {pair['words']}{changed}"
    )


def _kept(run: Mapping[str, Any], side: str) -> str:
    delta = ((run.get("retention") or {}).get(side) or {}).get("delta")
    return f"{signed(delta['value'])} ({_interval(delta)})" if delta else ""


def _interval(delta: Mapping[str, Any]) -> str:
    low, high = delta["ci95"]
    return f"{signed(low)} to {signed(high)}"
