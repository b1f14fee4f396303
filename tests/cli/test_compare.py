from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Done, call

from toy import toy_retrieval, toy_settings, train_toy, write_beir


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with a BEIR folder, an untaught and a taught model."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "beir").mkdir()
    write_beir(folder / "beir", 60)
    (folder / "untaught").symlink_to(tiny_bert)
    taught = train_toy(folder / "training", toy_retrieval(), toy_settings(tiny_bert)).out / "best"
    (folder / "taught").symlink_to(taught)
    return folder


def compare(place: Path, *arguments: str) -> Done:
    return call("compare", *arguments, "--data", "beir", "--set", "evaluate.resamples=200", cwd=place)


def test_a_model_against_itself_differs_by_exactly_nothing_in_valid_json(place: Path) -> None:
    done = compare(place, "untaught", "untaught", "--json")
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    assert {(d["value"], *d["ci95"], d["p"]) for d in done.record["delta"].values()} == {(0, 0, 0, 1)}


def test_bm25_is_a_system_like_the_others(place: Path) -> None:
    record = compare(place, "bm25", "untaught", "taught", "--json").record
    assert list(record["systems"]) == ["bm25", "untaught", "taught"]
    assert list(record["deltas"]) == ["untaught", "taught"]


def test_people_are_shown_every_system_beside_its_own_numbers(place: Path) -> None:
    record = compare(place, "untaught", "bm25", "taught", "--json").record
    done = compare(place, "untaught", "bm25", "taught")
    heading, first, second = done.out.splitlines()[:3]
    assert heading.split() == ["metric", "untaught", "bm25", "taught"]
    assert first.split() == ["nDCG@10", *(f"{found['ndcg@10']:.4f}" for found in record["systems"].values())]
    assert second.split() == [f"{record['deltas'][name]['ndcg@10']['value']:+.4f}" for name in ("bm25", "taught")]
    assert "verdict" not in done.out


def test_two_systems_end_with_a_verdict_and_its_reasons(place: Path) -> None:
    done = compare(place, "untaught", "taught")
    assert "verdict for taught: ship" in done.out
    assert done.out.rstrip().splitlines()[-1].startswith("  - ")


def test_a_system_named_twice_has_one_column_with_its_own_numbers(place: Path) -> None:
    done = compare(place, "untaught", "untaught", "taught")
    assert done.out.splitlines()[0].split() == ["metric", "untaught", "taught"]
    assert "verdict for taught: ship" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["untaught", "taught", "--data", "beir", "--split", "weekly"], ["weekly.tsv: no such file", "are: test"]),
        (["untaught", "taught", "--data", "nowhere"], ["nowhere: not a BEIR folder; it needs corpus.jsonl"]),
        (["untaught", "--data", "beir"], ["name at least two models"]),
        (["untaught", "./mine", "--data", "beir"], ["./mine: no such folder"]),
        (["untaught", "taught"], ["Missing option '--data'"]),
        (["untaught", "taught", "--data", "beir", "--set", "evaluate.depth=1"], ["evaluate.depth is 1"]),
    ],
)
def test_what_cannot_be_compared_is_refused(place: Path, arguments: list[str], words: list[str]) -> None:
    done = call("compare", *arguments, cwd=place)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


# Further systems and options


def test_sizes_slices_holes_and_outcomes_are_shown(place: Path) -> None:
    done = compare(place, "untaught", "fused:taught", "--dims", "16", "--metrics", "nDCG@20, hit@3")
    assert done.code == 0, done.err
    words = [line.split() for line in done.out.splitlines()]
    assert ["system", "kept", "as", "nDCG@10", "Recall@100", "bytes", "s/1,000"] in words
    assert next(line[:3] for line in words if line[:1] == ["untaught"])[1:] == ["32", "float32"]
    assert any(line[:2] == ["16", "binary"] for line in words)
    assert any(line[:1] == ["nDCG@20"] for line in words)
    assert any(line[:1] == ["Hit@3"] for line in words)
    assert "judged among the first 10: untaught " in done.out
    assert "queries won" in done.out


def test_a_run_file_and_its_depth_are_shown(place: Path) -> None:
    assert compare(place, "untaught", "taught", "--out", "kept", "--json").code == 0
    done = compare(place, "untaught", "run:kept/1-taught.trec")
    assert "run:kept/1-taught.trec: run 'taught': 100 passages a query" in done.out
    assert "verdict for run:kept/1-taught.trec: ship" in done.out


def test_vectors_are_kept_where_told_or_nowhere(place: Path, tmp_path: Path) -> None:
    assert compare(place, "untaught", "bm25", "--cache", str(tmp_path / "mine")).code == 0
    assert list((tmp_path / "mine").glob("passages-*/*.npz"))
    done = compare(place, "untaught", "bm25", "--no-cache", "--cache", str(tmp_path / "never"))
    assert done.code == 0
    assert not (tmp_path / "never").exists()


def test_labels_are_read_and_bad_ones_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("query_id,passage_id,grade\nq1,p5,1\n", encoding="utf-8")
    record = compare(place, "bm25", "untaught", "--labels", str(tmp_path / "labels.csv"), "--json").record
    assert record["labels"]["judgements"] == 1
    (tmp_path / "labels.csv").write_text("query_id,passage_id,grade\nq1,p5,maybe\n", encoding="utf-8")
    done = compare(place, "bm25", "untaught", "--labels", str(tmp_path / "labels.csv"))
    assert done.code == 2
    assert "line 2: grade is 'maybe'" in done.err


def test_an_endpoint_without_a_key_or_a_cap_is_refused_before_any_call(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = compare(place, "untaught", "endpoint:text-embedding-3-small")
    assert (done.code, done.out) == (2, "")
    assert "OPENAI_API_KEY is not set" in done.err
    done = compare(place, "untaught", "endpoint:mine@http://192.0.2.1/v1", "--json")
    assert done.code == 1
    assert "Nobody can be asked here: set endpoint.max_tokens or endpoint.max_cost, or give --yes" in done.err
