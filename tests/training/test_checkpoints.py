from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shoptalk.training.checkpoints import newest_complete, seal


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "1_Pooling").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 4 + str(step).encode())
    (path / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    if sealed:
        seal(path)
    return path


def test_the_newest_by_step_is_chosen_not_by_name(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        checkpoint(tmp_path, step)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-100"


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None


def test_an_unsealed_checkpoint_is_removed_and_the_one_before_is_chosen(tmp_path: Path) -> None:
    before, cut_off = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, sealed=False)
    assert newest_complete(tmp_path) == before
    assert not cut_off.exists()
    assert before.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "model.safetensors").write_bytes(b"short"),
        lambda path: flip_a_bit(path / "model.safetensors"),
        lambda path: (path / "1_Pooling" / "config.json").unlink(),
        lambda path: (path / "more.json").write_text("{}", encoding="utf-8"),
        lambda path: (path / "sealed.json").write_text('{"model.safe', encoding="utf-8"),
    ],
    ids=["truncated", "one bit", "file gone", "file more", "seal cut off"],
)
def test_an_altered_checkpoint_is_removed_and_the_one_before_is_chosen(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    before, altered = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    damage(altered)
    assert newest_complete(tmp_path) == before
    assert not altered.exists()


def test_a_checkpoint_of_which_nothing_is_left_whole_gives_none(tmp_path: Path) -> None:
    flip_a_bit(checkpoint(tmp_path, 10) / "model.safetensors")
    checkpoint(tmp_path, 20, sealed=False)
    assert newest_complete(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
