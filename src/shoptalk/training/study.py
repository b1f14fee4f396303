"""Where a hyperparameter search is kept: an Optuna study in a SQLite file of the run folder."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoptalk.errors import DamagedArtifact, MissingPart

STORAGE = "search.db"
_UNPRUNED_TRIALS = 4
_PATIENCE_SECONDS = 60.0  # with whoever looks into the file meanwhile, such as optuna-dashboard


@contextlib.contextmanager
def opened(optuna: Any, path: Path, name: str) -> Iterator[Any]:
    """The study in the storage, made if it is not there, with Optuna silent. The run folder's lock keeps others away."""
    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    try:
        with storage_errors(path):
            # The address would take ?, % and {} in a path for its own; a connection does not.
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{STORAGE}",
                engine_kwargs={"creator": lambda: sqlite3.connect(path, _PATIENCE_SECONDS, check_same_thread=False)},
            )
            yield optuna.create_study(
                storage=storage,
                study_name=name,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS),
                load_if_exists=True,
            )
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(loudness)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """What SQLite has to complain of, in the words of this package."""
    try:
        yield
    except Exception as error:
        said = error if isinstance(getattr(error, "orig", None), sqlite3.Error) else error.__cause__
        cause = getattr(said, "orig", None)
        if "disk is full" in str(cause):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if not isinstance(cause, sqlite3.Error) or isinstance(cause, sqlite3.OperationalError):
            raise
        raise DamagedArtifact(f"{path}: {cause}; remove the file, and the search begins anew") from error


def import_optuna() -> Any:
    """The module. Raises MissingPart."""
    try:
        import optuna
    except ImportError:
        raise MissingPart("train.search needs optuna: pip install 'shoptalk[search]'") from None
    return optuna
