"""NanoBEIR through a local server that speaks the Hub's protocol for datasets: no network, and no part of the client replaced."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pyarrow
import pyarrow.parquet
import pytest

from shoptalk.errors import SettingsError, SourceError
from shoptalk.evaluation.nanobeir import COLLECTION, measure_nanobeir, read_nano, with_nanobeir
from shoptalk.retrieval.metrics import PRIMARY, mean, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import Settings, make_settings
from shoptalk.settings.proof import NanoSet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOPICS = "red green blue black white pink brown grey gold silver plum lime".split()
PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from conftest import HashEncoder
from shoptalk.evaluation.nanobeir import with_nanobeir
from shoptalk.settings import make_settings
settings = make_settings({"evaluate": {"nanobeir": sys.argv[2:], "resamples": 200}})
print(json.dumps(with_nanobeir({"general": 1}, HashEncoder(8), HashEncoder(16), settings)))
"""


def write_collection(folder: Path, name: str, listed: bool = False) -> None:
    """A set in the collection's layout: a query for every passage, two files of the corpus; a query with an empty text, and one
    whose passage is empty. listed: the passages of a query as one list, which the collection allows too.
    """
    corpus = [{"_id": f"d{i}", "text": f"all about {topic}"} for i, topic in enumerate(TOPICS)]
    corpus.append({"_id": "empty", "text": ""})
    queries = [{"_id": f"q{i}", "text": f"what is {topic}"} for i, topic in enumerate(TOPICS)]
    queries += [{"_id": "blank", "text": ""}, {"_id": "lost", "text": "what is missing"}]
    judged: list[dict[str, Any]] = [{"query-id": f"q{i}", "corpus-id": f"d{i}"} for i in range(len(TOPICS))]
    judged += [{"query-id": "q0", "corpus-id": "d1"}, {"query-id": "blank", "corpus-id": "d2"}]
    judged.append({"query-id": "lost", "corpus-id": "empty"})
    if listed:
        judged = [{**row, "corpus-id": [row["corpus-id"]]} for row in judged]
    write(folder / f"corpus/{name}-00000-of-00002.parquet", corpus[:5])
    write(folder / f"corpus/{name}-00001-of-00002.parquet", corpus[5:])
    write(folder / f"queries/{name}-00000-of-00001.parquet", queries)
    write(folder / f"qrels/{name}-00000-of-00001.parquet", judged)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def hub_of(folder: Path) -> type[BaseHTTPRequestHandler]:
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.asked.append(f"{self.command} {path}")
            file = path.removeprefix(f"/datasets/{COLLECTION}/resolve/{COMMIT}/")
            if path.startswith(f"/api/datasets/{COLLECTION}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                    for name, raw in files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif files and path.startswith(f"/api/datasets/{COLLECTION}"):
                info = {"id": COLLECTION, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            elif file in files:
                etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
                self.answer(200, files[file], ETag=etag, X_Repo_Commit=COMMIT)
            else:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    return Hub


def serve(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of a Hub that has three sets, one of them damaged, and what it is asked."""
    folder = tmp_path_factory.mktemp("hub")
    for name in ("NanoNQ", "NanoSciFact", "NanoFEVER", "NanoClimateFEVER"):
        write_collection(folder, name)
    (folder / "qrels/NanoFEVER-00000-of-00001.parquet").write_bytes(b"PAR1 no table PAR1")
    handler = hub_of(folder)
    server, address = serve(handler)
    yield address, handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def probe(endpoint: str, home: Path, *names: str, **environment: str) -> dict[str, Any]:
    """ "nanobeir" of the record, by a process of its own: the client reads its endpoint when it is imported."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, str(Path(__file__).parents[1]), *names],
        env=keep | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "no_proxy": "127.0.0.1"} | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout.splitlines()[-1], parse_constant=lambda name: pytest.fail(f"{name} in the record"))
    assert record["general"] == 1
    return dict(record["nanobeir"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def measured(hub: tuple[str, list[str]], home: Path) -> dict[str, Any]:
    return probe(hub[0], home, "NanoNQ", "NanoFEVER")


def test_both_models_are_measured_over_the_set(measured: dict[str, Any]) -> None:
    found = measured["sets"]["NanoNQ"]
    assert (found["measured"], found["queries"], found["passages"], found["revision"]) == (True, 12, 12, COMMIT)
    assert 0 < found["base"] < 1
    assert found["delta"]["value"] == pytest.approx(found["tuned"] - found["base"])
    low, high = found["delta"]["ci95"]
    assert low < found["delta"]["value"] < high
    assert 0 < found["delta"]["p"] <= 1


def test_base_and_tuned_are_what_their_rankings_of_all_passages_score(
    measured: dict[str, Any], tmp_path: Path, make_encoder: Any
) -> None:
    write_collection(tmp_path, "NanoNQ")
    dataset = read_nano(tmp_path, "NanoNQ")
    for system, dim in (("base", 8), ("tuned", 16)):
        ranking = rank(make_encoder(dim), dataset, list(dataset.qrels["test"]), 12)
        score = mean(per_query(dataset.qrels["test"], ranking))[PRIMARY]
        assert measured["sets"]["NanoNQ"][system] == pytest.approx(score)


def test_only_the_named_sets_files_are_fetched(measured: dict[str, Any], hub: tuple[str, list[str]]) -> None:
    asked = {path.rpartition("/")[2] for path in hub[1] if "/resolve/" in path}
    assert "NanoNQ-00001-of-00002.parquet" in asked
    assert all(name.startswith(("NanoNQ-", "NanoFEVER-")) for name in asked)


def test_a_damaged_set_is_said_to_be_not_measured_and_the_others_are(measured: dict[str, Any]) -> None:
    damaged = measured["sets"]["NanoFEVER"]
    assert damaged.keys() == {"measured", "words"}
    assert damaged["measured"] is False
    assert damaged["words"].startswith("not measured: ")
    assert "qrels/NanoFEVER-00000-of-00001.parquet: not readable as parquet" in damaged["words"]


def test_what_was_fetched_is_measured_without_a_network_and_the_rest_is_said_in_words(
    measured: dict[str, Any], home: Path
) -> None:
    found = probe("http://127.0.0.1:9", home, "NanoSciFact", "NanoNQ", "NanoMSMARCO")["sets"]
    assert found["NanoNQ"] == measured["sets"]["NanoNQ"]
    for name in ("NanoSciFact", "NanoMSMARCO"):
        assert found[name]["measured"] is False
        assert found[name]["words"].startswith("not measured: ")


@pytest.mark.parametrize(("environment", "why"), [({}, ""), ({"HF_HUB_OFFLINE": "1"}, " (HF_HUB_OFFLINE is set)")])
def test_no_network_and_nothing_cached_is_said_in_words(tmp_path: Path, environment: dict[str, str], why: str) -> None:
    found = probe("http://127.0.0.1:9", tmp_path, "NanoNQ", "NanoSciFact", **environment)
    assert found["queries"] == 0
    assert found["sets"].keys() == {"NanoNQ", "NanoSciFact"}
    for entry in (found, *found["sets"].values()):
        assert entry["measured"] is False
        assert entry["words"].startswith(f"not measured: the Hub could not be reached{why}")


def test_a_hub_without_the_collection_is_named(tmp_path: Path) -> None:
    server, address = serve(hub_of(tmp_path / "nothing"))
    found = probe(address, tmp_path, "NanoNQ")
    server.shutdown()
    server.server_close()
    assert found["words"] == f"not measured: the Hub has no dataset {COLLECTION}"


def test_nothing_is_asked_for_by_default_and_the_record_stays_as_it_is(make_encoder: Any) -> None:
    encoder, before = make_encoder(), {"general": {"base": 0.5}}
    assert with_nanobeir(before, encoder, encoder, Settings()) is before
    assert with_nanobeir(None, encoder, encoder, Settings()) is None
    assert measure_nanobeir(encoder, encoder, Settings())["measured"] is False
    assert encoder.encoded == []


@pytest.mark.parametrize("listed", [False, True])
def test_texts_that_are_empty_are_left_out_with_what_is_judged_on_them(tmp_path: Path, listed: bool) -> None:
    write_collection(tmp_path, "NanoNQ", listed)
    dataset = read_nano(tmp_path, "NanoNQ")
    assert list(dataset.passages) == [f"d{i}" for i in range(12)]
    assert dataset.passages["d7"].text == "all about grey"
    assert dataset.qrels["test"].keys() == {f"NanoNQ/q{i}" for i in range(12)}
    assert dataset.qrels["test"]["NanoNQ/q0"] == {"d0": 1, "d1": 1}


def test_queries_that_share_a_passage_are_one_unit_of_chance(tmp_path: Path) -> None:
    write_collection(tmp_path, "NanoNQ")
    write(
        tmp_path / "qrels/NanoNQ-00000-of-00001.parquet",
        [{"query-id": f"q{i}", "corpus-id": "d3" if i < 4 else f"d{i}"} for i in range(12)],
    )
    assert len(set(read_nano(tmp_path, "NanoNQ").groups.values())) == 9


def test_several_sets_are_measured_one_by_one_and_together(hub: tuple[str, list[str]], home: Path) -> None:
    found = probe(hub[0], home, "NanoNQ", "NanoSciFact")
    sets = found["sets"]
    assert (found["measured"], found["queries"]) == (True, 24)  # the two sets use the same query ids
    for key in ("base", "tuned"):
        assert found[key] == pytest.approx((sets["NanoNQ"][key] + sets["NanoSciFact"][key]) / 2)
    assert found["delta"]["value"] == pytest.approx(found["tuned"] - found["base"])


def test_a_set_without_judgements_is_an_error_that_says_so(tmp_path: Path) -> None:
    write_collection(tmp_path, "NanoNQ")
    write(tmp_path / "qrels/NanoNQ-00000-of-00001.parquet", [{"query-id": "other", "corpus-id": "d0"}])
    with pytest.raises(SourceError, match="NanoNQ holds no query with a passage that answers it"):
        read_nano(tmp_path, "NanoNQ")


def test_the_collection_and_the_names_are_those_of_the_installed_evaluator() -> None:
    import inspect

    from sentence_transformers.sentence_transformer.evaluation import nano_beir

    signature = inspect.signature(nano_beir.NanoBEIREvaluator.__init__)
    assert signature.parameters["dataset_id"].default == COLLECTION
    assert set(get_args(NanoSet)) == {f"Nano{name}" for name in nano_beir.DATASET_NAME_TO_HUMAN_READABLE.values()}


def test_a_name_that_is_none_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.nanobeir.*NanoSciFact"):
        make_settings({"evaluate": {"nanobeir": ["NanoEverything"]}})


def test_asking_for_it_with_retention_switched_off_is_a_contradiction() -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.nanobeir measures retention, and select\.retention is off"):
        make_settings({"evaluate": {"nanobeir": ["NanoNQ"]}, "select": {"retention": "off"}})
