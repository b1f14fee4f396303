from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commandline import Done, call

from shoptalk.models.encoder import load_encoder
from shoptalk.settings import ModelSettings

QUICK = ["--set", "model.precision=fp32", "--set", "model.device=cpu"]


@pytest.fixture
def place(tmp_path: Path, tiny_bert: Path) -> Path:
    (tmp_path / "model").symlink_to(tiny_bert)
    rows = [
        {"_id": "d1", "title": "travel", "text": "the hotel is booked"},
        {"_id": "d2", "text": "train ticket " * 60},
        {"_id": "d3", "title": "", "text": "refund"},
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def encode(place: Path, *arguments: str, model: str = "model") -> Done:
    return call("encode", *arguments, "--out", "vectors.npy", "--model", model, *QUICK, cwd=place)


def test_a_beir_corpus_becomes_a_file_of_vectors(place: Path, tiny_bert: Path) -> None:
    done = encode(place, "corpus.jsonl", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    record = done.record
    assert (record["rows"], record["dim"], record["truncated"], record["role"]) == (3, 32, 1, "document")
    assert (record["vectors"], record["ids"], record["facts"]) == ("vectors.npy", "vectors.ids.txt", "vectors.json")
    assert (record["model"], record["resumed"], record["restarted"]) == ("model", 0, "")
    vectors = np.load(place / "vectors.npy", mmap_mode="r")
    encoder = load_encoder(str(tiny_bert), ModelSettings(device="cpu", precision="fp32"))
    wanted = encoder.encode_passages(["travel the hotel is booked", "train ticket " * 60, "refund"])
    assert np.abs(vectors - wanted).max() <= 1e-6
    assert (place / "vectors.ids.txt").read_text(encoding="utf-8") == "d1\nd2\nd3\n"


def test_people_read_what_was_done_and_what_was_there(place: Path) -> None:
    first = encode(place, "corpus.jsonl")
    assert first.code == 0, first.err
    assert "3 vectors of 32 dimensions (fp32" in first.out
    assert "1 texts are longer than 64 tokens" in first.out
    assert "were there already" not in first.out
    assert "3 of them were there already" in encode(place, "corpus.jsonl").out


def test_changed_texts_start_again_and_it_is_said(place: Path) -> None:
    assert encode(place, "corpus.jsonl").code == 0
    with (place / "corpus.jsonl").open("a", encoding="utf-8") as more:
        more.write('{"_id": "d4", "text": "new"}\n')
    again = encode(place, "corpus.jsonl", "--json")
    assert again.record["rows"] == 4
    assert "vectors.npy: the texts have changed; starting again" in again.err


def test_queries_of_a_field_with_the_models_query_prompt(place: Path, tiny_bert: Path) -> None:
    (place / "asked.csv").write_text("id,question\nq1,refund\nq2,hotel\n", encoding="utf-8")
    done = encode(
        place, "asked.csv", "--as", "query", "--field", "question", "--set", "model.query_prompt='ask: '", "--json"
    )
    assert done.code == 0, done.err
    assert (done.record["role"], done.record["prompt"]) == ("query", "ask: ")
    settings = ModelSettings(device="cpu", precision="fp32", query_prompt="ask: ")
    wanted = load_encoder(str(tiny_bert), settings).encode_queries(["refund", "hotel"])
    assert np.abs(np.load(place / "vectors.npy") - wanted).max() <= 1e-6


def test_wrong_input_is_told_before_anything_is_encoded(place: Path) -> None:
    (place / "broken.jsonl").write_text('{"text": "fine"}\n{"body": 1}\n', encoding="utf-8")
    for arguments, why in (
        (["none.jsonl"], "none.jsonl: no such file"),
        (["broken.jsonl"], "broken.jsonl, line 2: no field 'text'"),
        (["corpus.jsonl", "--field", "body"], "corpus.jsonl, line 1: no field 'body'"),
        (["corpus.jsonl", "--as", "answer"], "neither query nor document"),
    ):
        done = encode(place, *arguments)
        assert (done.code, done.out) == (2, "")
        assert why in done.err
    assert "no such folder" in encode(place, "corpus.jsonl", model="no/model/here").err
    assert not (place / "vectors.npy").exists()
