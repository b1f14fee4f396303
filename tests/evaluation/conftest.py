from __future__ import annotations

from pathlib import Path

import pytest

from toy import toy_retrieval, toy_settings, train_toy


@pytest.fixture(scope="session")
def taught_bert(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """`tiny_bert` after it has learned the toy task."""
    return train_toy(tmp_path_factory.mktemp("taught"), toy_retrieval(), toy_settings(tiny_bert)).out / "best"
