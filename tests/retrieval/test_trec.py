"""TREC run files."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoptalk.errors import SourceError
from shoptalk.retrieval.trec import read_run, read_trec, write_trec

RANKING = {"q1": [("docs/a b.md#1", 0.75), ("tab\tin\u2028name", 0.5)], "q2": [("c", 2.5)]}
QUERIES, PASSAGES = ["q1", "q2", "q3"], {"a", "b", "c"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_trec(tmp_path / "base.trec", RANKING, "base")
    assert read_trec(tmp_path / "base.trec", 100) == RANKING
    assert (tmp_path / "base.trec").read_text(encoding="utf-8").startswith("q1\tQ0\tdocs/a b.md#1\t1\t0.75\tbase\n")


def test_depth_and_queries_limit_what_is_read(tmp_path: Path) -> None:
    write_trec(tmp_path / "base.trec", RANKING, "base")
    assert read_trec(tmp_path / "base.trec", 1, {"q1"}) == {"q1": RANKING["q1"][:1]}


def run_of(tmp_path: Path, text: str, depth: int = 100, encoding: str = "utf-8"):
    path = tmp_path / "production.trec"
    path.write_text(text, encoding=encoding, newline="")
    return read_run(path, QUERIES, PASSAGES, depth)


def test_a_run_of_another_system_is_read_by_its_scores(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, "\ufeffq1 Q0 a 1 0.5 prod\nq1 Q0 b 2 0.9 prod\r\n\nother Q0 z 1 1 prod\nq2\tQ0\tc\t1\t7\tprod\n"
    )
    assert {q: [p for p, _ in found] for q, found in run.ranking.items()} == {"q1": ["b", "a"], "q2": ["c"]}
    assert (run.name, run.missing, run.depths) == ("prod", ("q3",), (1, 1, 2))
    assert run.words == (
        "run 'prod': 1 to 2 (median 1) passages a query; what is deeper counts as not found; "
        "1 queries are not in it and count as zero, such as q3"
    )


def test_equal_scores_stand_by_their_ranks_and_come_out_strictly_decreasing(tmp_path: Path) -> None:
    run = run_of(tmp_path, "q1 Q0 a 3 1 p\nq1 Q0 b 1 1 p\nq1 Q0 c 2 1 p\n", depth=2)
    (first, high), (second, low) = run.ranking["q1"]
    assert (first, second) == ("b", "c")
    assert high > low


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "q1 Q0 a 1 0.5\n",
            "line 1: expected query Q0 passage rank score name, apart by tabs or spaces; got 'q1 Q0 a 1 0.5'",
        ),
        ("q1 Q0 a 1 0.5 p\nq1 Q0 a 2 0.4 p\n", "line 2: passage 'a' comes twice for query 'q1'"),
        ("q1 Q0 z 1 0.5 p\n", "line 1: passage 'z' is not in the corpus"),
        ("q1 Q0 a 1 best p\n", "line 1: the score is 'best', which is not a number"),
        ("q1 Q0 a first 1 p\n", "line 1: the rank is 'first'"),
        ("q1 Q0 a 1 nan p\n", "line 1: the score is 'nan'"),
        ("q9 Q0 a 1 1 p\n", "holds none of the 3 queries"),
        ("", "holds none of the 3 queries"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SourceError, match=r"production\.trec") as caught:
        run_of(tmp_path, text)
    assert words in str(caught.value)


def test_a_run_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such run file"):
        read_run(tmp_path / "none.trec", QUERIES, PASSAGES, 10)
    with pytest.raises(SourceError, match="cannot be read as UTF-8 text"):
        run_of(tmp_path, "q1 Q0 ä 1 1 p\n" * 3, encoding="latin-1")
