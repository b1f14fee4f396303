"""TREC run files."""

from __future__ import annotations

from pathlib import Path

from shoptalk.retrieval.trec import read_trec, write_trec

RANKING = {"q1": [("docs/a b.md#1", 0.75), ("tab\tin\u2028name", 0.5)], "q2": [("c", 2.5)]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_trec(tmp_path / "base.trec", RANKING, "base")
    assert read_trec(tmp_path / "base.trec", 100) == RANKING
    assert (tmp_path / "base.trec").read_text(encoding="utf-8").startswith("q1\tQ0\tdocs/a b.md#1\t1\t0.75\tbase\n")


def test_depth_and_queries_limit_what_is_read(tmp_path: Path) -> None:
    write_trec(tmp_path / "base.trec", RANKING, "base")
    assert read_trec(tmp_path / "base.trec", 1, {"q1"}) == {"q1": RANKING["q1"][:1]}
