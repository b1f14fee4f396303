from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shoptalk.diagnosis.diagnosing import gather
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.evaluation import compare
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset
from shoptalk.settings import BUILTIN_MODEL, ModelSettings, Settings
from shoptalk.workspace import StageContext
from toy import saved, stage_in, toy_retrieval, toy_settings, train_toy

Run = Callable[..., StageContext]


@pytest.fixture(scope="session")
def taught_bert(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """`tiny_bert` after it has learned the toy task."""
    return train_toy(tmp_path_factory.mktemp("taught"), toy_retrieval(), toy_settings(tiny_bert)).out / "best"


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> CachedEncoder:
    """The builtin model, which encodes no text twice."""
    settings = ModelSettings(device="cpu", precision="fp32")
    return CachedEncoder(find_model(BUILTIN_MODEL), settings, tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def run_to_diagnosis() -> Run:
    """Train, compare, and the stage diagnose ready to go: run_to_diagnosis(FOLDER, DATASET, SETTINGS, model=OTHER_THAN_TRAINED)."""
    return _run


def _run(folder: Path, dataset: Dataset, settings: Settings, model: Path | None = None) -> StageContext:
    training = train_toy(folder, dataset, settings)
    data = saved(folder / "dataset", dataset)
    artifacts = {"dataset": data, "model": model or training.out / "best"}
    evaluation = stage_in(folder / "evaluation", settings, **artifacts)
    compare(evaluation)
    artifacts |= {"candidates": training.out, "evaluation": evaluation.out, "examples": folder / "examples" / "out"}
    return stage_in(folder / "diagnosis", settings, **artifacts)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Evidence:
    """The evidence of a real run that went well: `tiny_bert` learns the toy task."""
    folder = tmp_path_factory.mktemp("clean")
    return gather(_run(folder, toy_retrieval(), toy_settings(tiny_bert)))
