"""The way of the data, as one table, and `run`, which walks it.

A stage is skipped when its inputs and settings are what they were; a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoptalk.beir import looks_like_beir
from shoptalk.errors import InputError, SettingsError, ShoptalkError, SourceError
from shoptalk.models.finding import find_model
from shoptalk.progress import reporter
from shoptalk.settings import Settings, make_settings, read_settings, resolved_yaml
from shoptalk.workspace import (
    Row,
    StageContext,
    Workspace,
    digest_of,
    list_files,
    open_workspace,
    sha256_of,
    write_atomically,
)


@dataclass(frozen=True)
class Stage:
    """A function from artifacts to one artifact. `function` is "module:name", imported when the stage runs.

    `settings` names the sections that the result depends on; `reads` names artifacts, or what comes from outside the run
    folder: source, labels, review, rivals (the gate's further models), retention, grades, controls, base_model.
    """

    name: str
    function: str
    reads: tuple[str, ...]
    writes: str
    settings: tuple[str, ...]


STAGES = (
    Stage("ingest", "shoptalk.corpus:ingest", ("source", "base_model"), "passages", ("input", "ingest")),
    Stage(
        "queries", "shoptalk.queries:make_queries",
        ("source", "labels", "review", "passages", "base_model"), "queries", ("input", "queries", "llm", "model"),
    ),
    Stage("dataset", "shoptalk.dataset:build_dataset", ("passages", "queries"), "dataset", ("dataset", "seed")),
    Stage(
        "baseline", "shoptalk.evaluation:assess",
        ("base_model", "rivals", "dataset"), "baseline", ("model", "baseline", "evaluate", "seed"),
    ),
    Stage(
        "negatives", "shoptalk.training:mine_negatives",
        ("base_model", "dataset"), "examples", ("model", "negatives", "llm", "seed"),
    ),
    Stage(
        "train", "shoptalk.training:finetune",
        ("base_model", "examples", "dataset"), "candidates", ("model", "train", "negatives", "llm", "seed"),
    ),
    Stage(
        "select", "shoptalk.evaluation:select",
        ("base_model", "candidates", "dataset", "retention"), "model", ("select", "model", "train", "seed"),
    ),
    Stage(
        "evaluate", "shoptalk.evaluation:compare",
        ("base_model", "model", "dataset", "retention", "grades"), "evaluation", ("model", "select", "evaluate", "baseline", "seed"),
    ),
    Stage(
        "diagnose", "shoptalk.diagnosis:diagnose",
        ("base_model", "model", "dataset", "examples", "candidates", "evaluation", "controls"), "diagnosis",
        ("model", "diagnose", "seed"),
    ),
    Stage(
        "report", "shoptalk.report:build_report",
        ("queries", "dataset", "baseline", "examples", "candidates", "model", "evaluation", "diagnosis"), "report",
        tuple(Settings.model_fields),
    ),
)  # fmt: skip
NAMES = tuple(stage.name for stage in STAGES)
_CLOSED_GATE = ("collect-more-data", "use-something-simpler", "not-needed")


class GateClosed(ShoptalkError):
    """`--gate strict`, or a person's answer, stopped the run after the gate."""


@dataclass(frozen=True)
class RunResult:
    """Where a run stands: its folder and, when it was walked to its end, what `result.json` says."""

    folder: Path
    result: Mapping[str, Any] | None

    @property
    def verdict(self) -> str | None:
        """ship, do-not-ship or inconclusive; None for a run that stopped before the report."""
        return None if self.result is None else str(self.result["verdict"])


def run(
    source: str | Path | None = None,
    out: str | Path = "runs/run",
    *,
    base_model: str | None = None,
    queries: str | Path | None = None,
    dev_queries: str | Path | None = None,
    test_queries: str | Path | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    until: str = NAMES[-1],
    from_stage: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    replace: bool = False,
) -> RunResult:
    """Walk the stages from a source to a verdict, skipping what is done and unchanged.

    source: a folder of documents, a BEIR folder or a labelled file; None goes on with the source of the run folder `out`.
    settings: a Settings, or plain values by section as in shoptalk.yaml. from_stage: run this stage and all later ones
    again. confirm: asked, when the gate advises against training or a language model costs money, whether to go on; None goes
    on. replace: build over a
    run of another source, which is refused otherwise.
    Raises ShoptalkError; what is finished stays in `out`, and the same call continues.
    """
    folder = Path(out)
    given = {"source": source, "queries": queries, "dev_queries": dev_queries, "test_queries": test_queries}
    resolved = resolve_settings(folder, settings, given, base_model)
    _known(until, "until")
    if from_stage is not None:
        _known(from_stage, "from")
    outside = _Outside(resolved)
    outside.check()
    with open_workspace(folder) as workspace:
        if not replace:
            _refuse_other_source(workspace, resolved, outside)
        write_atomically(folder / "shoptalk.yaml", resolved_yaml(resolved))
        _walk(workspace, resolved, outside, until, from_stage, confirm)
        return RunResult(folder, _result(workspace) if until == NAMES[-1] else None)


def resolve_settings(
    folder: Path,
    settings: Settings | Mapping[str, Any] | None,
    given: Mapping[str, str | Path | None],
    base_model: str | None,
) -> Settings:
    """Settings with the inputs that were given. Without a source, those of the run folder. Raises SettingsError."""
    if settings is None and given.get("source") is None and (folder / "shoptalk.yaml").is_file():
        resolved = read_settings(folder / "shoptalk.yaml")
    else:
        resolved = settings if isinstance(settings, Settings) else make_settings(settings or {})
    values = resolved.model_dump(mode="json")
    values["input"] |= {name: str(value) for name, value in given.items() if value is not None}
    if base_model is not None:
        values["model"]["base"] = base_model
    for section, names in _PATHS.items():
        for name in names:
            if values[section][name] not in ("", "off"):  # absolute, so that the run goes on from any working directory
                values[section][name] = str(Path(values[section][name]).absolute())
    values["model"]["base"] = _absolute(values["model"]["base"])
    values["baseline"]["candidates"] = [_absolute(name) for name in values["baseline"]["candidates"]]
    resolved = make_settings(values)
    if not resolved.input.source:
        raise SettingsError(f"no source: name a folder or file, or an --out folder that has a run ({folder} has none)")
    return resolved


def _absolute(model: str) -> str:
    """A model's folder by its absolute path; other names of models as they are."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def _refuse_other_source(workspace: Workspace, settings: Settings, outside: _Outside) -> None:
    """A run is not built over by mistake: another path with other content is another source (a moved folder is not)."""
    row, saved = workspace.rows.get("ingest"), workspace.root / "shoptalk.yaml"
    before = read_settings(saved).input.source if saved.is_file() else ""
    if row is None or not before or Path(before).resolve() == Path(settings.input.source).resolve():
        return
    if row.inputs.get("source") != outside.digest("source"):
        raise InputError(
            f"{workspace.root}: holds a run of {before}; choose another --out for {settings.input.source}, "
            "or build over it with --yes"
        )


def _known(stage: str, option: str) -> None:
    if stage not in NAMES:
        raise SettingsError(f"--{option} {stage}: there is no such stage; the stages are {', '.join(NAMES)}")


def _walk(
    workspace: Workspace,
    settings: Settings,
    outside: _Outside,
    until: str,
    from_stage: str | None,
    confirm: Callable[[str], bool] | None,
) -> None:
    if from_stage is not None:
        for name in NAMES[NAMES.index(from_stage) :]:
            workspace.drop(name)
    for stage in STAGES[: NAMES.index(until) + 1]:
        inputs = {
            name: outside.digest(name) if name in _Outside.NAMES else _digest(workspace, name) for name in stage.reads
        }
        own = _own_settings(stage, settings)
        key = digest_of([stage.name, inputs, own, _VERSION])
        row = workspace.rows.get(stage.name)
        if row is not None and row.key == key:
            workspace.read(stage.writes)
            reporter().stage(stage.name, "unchanged")
        else:
            _run_stage(workspace, settings, stage, key, inputs, digest_of(own), confirm)
        if stage.name == "baseline" and NAMES.index(until) > NAMES.index("baseline"):
            _heed_gate(workspace, settings, confirm)


_PATHS = {
    "input": ("source", "queries", "dev_queries", "test_queries", "clicks"),
    "queries": ("review",),
    "select": ("retention",),
    "evaluate": ("labels",),
    "diagnose": ("controls",),
}


def _own_settings(stage: Stage, settings: Settings) -> dict[str, Any]:
    """What a stage's result depends on. Training does not depend on a language model that judges nothing for it."""
    own = {name: value for name, value in settings.model_dump(mode="json").items() if name in stage.settings}
    judged = {
        "negatives": settings.negatives.llm_judge,
        "train": settings.negatives.llm_judge and settings.negatives.rounds > 1,
    }
    if not judged.get(stage.name, True):
        del own["llm"]
    return _without_paths(own)


def _without_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without the inputs' paths: a stage depends on what the files hold, wherever they lie."""
    return {
        section: {name: entry for name, entry in value.items() if name not in _PATHS[section]}
        if section in _PATHS
        else value
        for section, value in values.items()
    }


def _run_stage(
    workspace: Workspace,
    settings: Settings,
    stage: Stage,
    key: str,
    inputs: dict[str, str],
    own: str,
    confirm: Callable[[str], bool] | None,
) -> None:
    reporter().stage(stage.name, "running")
    started = time.monotonic()
    out, scratch = workspace.begin(stage.writes, key)
    seen = workspace.note_evaluation(key) if stage.name == "evaluate" else workspace.evaluations()
    seconds = {name: row.seconds for name, row in workspace.rows.items()}
    module, _, name = stage.function.partition(":")
    function: Callable[[StageContext], None] = getattr(importlib.import_module(module), name)
    function(StageContext(settings, workspace.read, out, scratch, workspace.cache, seconds, seen, confirm))
    files = list_files(out)
    taken = round(time.monotonic() - started, 3)
    workspace.commit(stage.name, Row(stage.writes, key, inputs, own, files, digest_of(files), taken, _versions()))
    reporter().stage(stage.name, f"done in {taken:.1f} s")


def _digest(workspace: Workspace, artifact: str) -> str:
    row = next((row for row in workspace.rows.values() if row.artifact == artifact), None)
    return row.digest if row is not None else ""


def _heed_gate(workspace: Workspace, settings: Settings, confirm: Callable[[str], bool] | None) -> None:
    gate = json.loads((workspace.read("baseline") / "gate.json").read_text(encoding="utf-8"))
    if gate["decision"] not in _CLOSED_GATE or "train" in workspace.rows:
        return
    words = f"the gate says {gate['decision']}: {'; '.join(gate['reasons'])}"
    if settings.baseline.gate == "strict":
        raise GateClosed(f"{words}. baseline.gate is strict, so nothing was trained")
    if confirm is not None and not confirm(words):
        raise GateClosed(f"{words}. Nothing was trained")


def _result(workspace: Workspace) -> dict[str, Any] | None:
    path = workspace.root / "result.json"
    if "report" not in workspace.rows or not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


class _Outside:
    """Digests of what lies outside the run folder, computed once a walk."""

    NAMES = ("source", "labels", "review", "rivals", "retention", "grades", "controls", "base_model")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, str] = {}

    def check(self) -> None:
        """Before a run folder is made: the files and the base model are there. Raises SourceError or ModelError."""
        from shoptalk.corpus.ingest import holds_documents, no_source

        source = Path(self._settings.input.source)
        if not source.exists() and not holds_documents(source):
            raise SourceError(no_source(source))
        for name in ("labels", "review", "rivals", "retention", "grades", "controls", "base_model"):
            self.digest(name)

    def digest(self, name: str) -> str:
        """The digest of an input by its name in the table. Raises SourceError or ModelError when it is not there."""
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    def _compute(self, name: str) -> str:
        chosen = self._settings.input
        if name == "base_model":
            return find_model(self._settings.model.base).sha256
        if name == "rivals":
            return digest_of([find_model(rival).sha256 for rival in self._settings.baseline.candidates])
        if name == "source":
            from shoptalk.corpus.ingest import source_digest

            return source_digest(Path(chosen.source))
        if name == "review":
            return self._review()
        if name == "retention":
            return self._retention()
        files = {
            "controls": [self._settings.diagnose.controls],
            "grades": [self._settings.evaluate.labels],
            "labels": [chosen.queries, chosen.dev_queries, chosen.test_queries, chosen.clicks],
        }[name]
        for file in files:
            if file and not Path(file).is_file():
                raise SourceError(f"{file}: no such file")
        return digest_of([sha256_of(Path(file)) if file else "" for file in files])

    def _retention(self) -> str:
        """The user's own retention set; "" for the one that is shipped, and for none."""
        folder = self._settings.select.retention
        if folder in ("", "off"):
            return folder
        if not looks_like_beir(Path(folder)):
            raise SourceError(
                f"select.retention: {folder} is not a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv)"
            )
        return digest_of(list_files(Path(folder)))

    def _review(self) -> str:
        """What a person decided, not how the spreadsheet saved it; "" as long as there is no file."""
        path = Path(self._settings.queries.review)
        if not self._settings.queries.review or not path.is_file():
            return ""
        from shoptalk.queries.review import read_review

        return digest_of([[row.query_id, row.text, row.keep] for row in read_review(path)])


_VERSION = "3"
"""Part of every stage's key: raised when a stage's result changes for the same inputs and settings."""


def _versions() -> dict[str, str]:
    names = ("shoptalk", "torch", "transformers", "sentence-transformers", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
