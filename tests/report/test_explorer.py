"""The explorer's data: every query, its rankings, what is cut when it would grow too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report.runs import HOSTILE, Kind, make_run, make_similarity_run
from shoptalk.report import build_report
from shoptalk.report.artifacts import Artifacts, read_artifacts
from shoptalk.report.explorer import explorer
from shoptalk.report.page import render
from shoptalk.workspace import StageContext

_MOST = 8_000_000


def explored(run: Artifacts, most_bytes: int = 5_000_000) -> dict[str, Any]:
    found = explorer(run, most_bytes)
    assert found is not None
    return found


def test_every_query_is_there_with_both_rankings_and_what_moved(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    found = explored(run)
    assert [query["t"] for query in found["queries"]] == [row["text"] for row in run.per_query]
    assert (found["places"], found["depth"], found["ranked"]) == (10, 100, 60)
    query = next(query for query in found["queries"] if (query["rb"], query["ra"]) == (25, 1))
    before, after = _entries(found, query["B"]), _entries(found, query["A"])
    number = query["t"].split()[-1].rstrip("?")
    right = f"Meetings › Minutes {number}"
    assert [entry[0] for entry in before] == [*range(1, 11), 25]
    assert before[-1] == (25, right, 1)
    assert after[0] == (1, right, 25)
    assert [found["passages"][i][0] for i in query["r"]] == [right]
    assert (query["mb"], query["ma"]) == (0, 0)
    assert query["c"] == pytest.approx(query["a"] - query["b"], abs=1e-4)


def test_a_right_passage_that_is_not_found_is_counted(tmp_path: Path) -> None:
    found = explored(read_artifacts(make_run(tmp_path, Kind(ranks=((30, 1), (1, 1))))))
    query = found["queries"][0]
    assert (query["rb"], query["mb"], query["ma"]) == (0, 1, 0)
    assert _entries(found, query["A"])[0][2] == 0


def test_texts_stand_once(tmp_path: Path) -> None:
    found = explored(read_artifacts(make_run(tmp_path)))
    titles = [title for title, _, _ in found["passages"]]
    assert len(titles) == len(set(titles)) <= 60
    assert found["sources"] == ["", "doc0.md", "doc1.md", "doc2.md"]


def test_what_does_not_fit_is_cut_in_steps(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    whole = _size(explored(run))
    shorter = explored(run, whole * 9 // 10)
    assert _size(shorter) <= whole * 9 // 10
    assert (shorter["places"], shorter["ranked"]) == (10, 60)
    assert max(len(snippet) for _, _, snippet in shorter["passages"]) < 220
    few = explored(run, 12_000)
    assert _size(few) <= 12_000
    assert 0 < few["ranked"] < 60
    assert len(few["queries"]) == 60
    kept = {query["t"] for query in few["queries"] if "B" in query}
    most = sorted(run.per_query, key=lambda row: (-abs(row["change"]), row["query_id"]))[: few["ranked"]]
    assert kept == {row["text"] for row in most}


def test_scored_pairs_have_none(tmp_path: Path) -> None:
    stage = make_similarity_run(tmp_path)
    assert explorer(read_artifacts(stage)) is None
    build_report(stage)
    assert 'id="explorer' not in (stage.out / "report.html").read_text(encoding="utf-8")


def test_hostile_texts_do_not_end_the_script(tmp_path: Path) -> None:
    braces = HOSTILE.replace("{", "{{").replace("}", "}}")
    stage = make_run(tmp_path, Kind(query=f"{braces} {{i}}", title=braces, text=braces))
    build_report(stage)
    page = (stage.out / "report.html").read_text(encoding="utf-8")
    block = page.split('id="explorer-data">')[1].split("</script>")[0]
    assert json.loads(block)["queries"][0]["t"] == " ".join(f"{HOSTILE} 0".split())
    assert not set("<>&\u2028") & set(block)


@pytest.mark.parametrize("alphabet", ["abcdefghijklmnoprstuvwy", "検索文書質問回答会議議事録研修報告安全管理部品"])
def test_2000_queries_over_20000_passages_stay_under_8_mb(tmp_path: Path, alphabet: str) -> None:
    stage = _large(make_run(tmp_path, Kind(terms=40)), tmp_path, alphabet)
    page = render(read_artifacts(stage))
    # 6.0 MB with Latin letters (snippets of 160 characters), 6.6 with Japanese (30), measured.
    assert len(page.encode()) < _MOST
    found = json.loads(page.split('id="explorer-data">')[1].split("</script>")[0])
    assert len(found["queries"]) == found["ranked"] == 2000
    assert found["places"] == 10
    assert len(found["passages"]) > 15_000
    assert max(len(snippet) for _, _, snippet in found["passages"]) > 20


def _large(stage: StageContext, folder: Path, alphabet: str) -> StageContext:
    """The run with 2,000 queries, each with 20 places a side of 20,000 passages with titles and texts of their own."""
    rng = np.random.default_rng(3)
    letters = np.array(list(alphabet))

    def text(n: int) -> str:
        chosen = letters[rng.integers(len(letters), size=n)]
        chosen[rng.random(n) < 0.15] = " "
        return "".join(chosen)

    rows = [
        {"_id": f"p{i}", "title": f"{text(30)} > {text(25)}", "text": text(500), "metadata": {"source": f"d{i % 700}.md"}}
        for i in range(20_000)
    ]  # fmt: skip
    _lines(folder / "dataset" / "corpus.jsonl", rows)
    row = json.loads((folder / "evaluation" / "per_query.jsonl").read_text(encoding="utf-8").split("\n")[0])
    values = rng.random((2000, 2)).round(4)
    queries = [
        row | {"query_id": f"q{i}", "text": text(60), "group": f"q{i}", "base": row["base"] | {"ndcg@10": before},
               "tuned": row["tuned"] | {"ndcg@10": after}, "change": after - before}
        for i, (before, after) in enumerate(values.tolist())
    ]  # fmt: skip
    _lines(folder / "evaluation" / "per_query.jsonl", queries)
    qrels = [f"q{i}\tp{rng.integers(20_000)}\t1" for i in range(2000)]
    header = "query-id\tcorpus-id\tscore"
    (folder / "dataset" / "qrels" / "test.tsv").write_text("\n".join([header, *qrels]) + "\n", encoding="utf-8")
    for system in ("base", "tuned"):
        found = rng.integers(20_000, size=(2000, 20))
        lines = [
            f"q{i}\tQ0\tp{p}\t{place}\t{1 / place:.9g}\t{system}"
            for i, own in enumerate(found.tolist())
            for place, p in enumerate(dict.fromkeys(own), 1)
        ]
        (folder / "evaluation" / f"{system}.trec").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return stage


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _entries(found: dict[str, Any], flat: list[int]) -> list[tuple[int, str, int]]:
    """(place, title, place on the other side) of a flat list."""
    threes = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return [(place, found["passages"][number][0], there) for place, number, there in threes]


def _size(found: dict[str, Any]) -> int:
    return len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode())
