"""TensorBoard, MLflow and W&B, through the trainer's own `report_to`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from shoptalk.errors import MissingPart
from shoptalk.settings import TrainSettings

_VARIABLE = "TENSORBOARD_LOGGING_DIR"


@contextlib.contextmanager
def trackers(settings: TrainSettings, folder: Path) -> Iterator[None]:
    """While the block runs TensorBoard's files go to `folder`, unless the user's environment says where. Raises MissingPart,
    before anything is trained, for a tracker that is not installed.
    """
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            raise MissingPart(f"train.report_to={name} needs {name}: pip install {name}")
    before = os.environ.get(_VARIABLE)
    if "tensorboard" in settings.report_to and before is None:
        os.environ[_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
