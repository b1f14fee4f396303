"""A model from the Hub, through a local server that speaks the Hub's protocol: no network, and no part of the client replaced."""

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

import pytest

from shoptalk.models.finding import find_model
from shoptalk.models.loading import load_model
from shoptalk.settings import ModelSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROBE = """
import json, sys
from shoptalk.errors import ModelError
from shoptalk.models.finding import find_model
for name in sys.argv[1:]:
    try:
        found = find_model(name)
        print(json.dumps([str(found.path), found.sha256]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""


def hub_of(folder: Path) -> type[BaseHTTPRequestHandler]:
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.asked.append(f"{self.command} {path}")
            file = path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
            if path.startswith("/api/models/owner/tiny/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                    for name, raw in files.items()
                ]
                self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/api/models/owner/tiny"):
                info = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            elif file in files:
                raw = files[file]
                self.answer(
                    200,
                    raw,
                    ETag=f'"{hashlib.sha1(raw).hexdigest()}"',
                    X_Repo_Commit=COMMIT,
                    Content_Length=str(len(raw)),
                )
            elif path.startswith("/api/models/owner/gated"):
                self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            else:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    return Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_bert) -> Iterator[tuple[str, list[str]]]:
    """The address of a Hub that has owner/tiny, and what it is asked. Beside the model lies a pickle that must not be fetched."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    for path in tiny_bert.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(tiny_bert)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    handler = hub_of(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()


def probe(endpoint: str, home: Path, *names: str, **environment: str) -> list:
    """What find_model gives for the names in a process of its own: the client reads its endpoint when it is imported."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        env=keep | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "no_proxy": "127.0.0.1"} | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def downloaded(hub, home) -> list:
    return probe(hub[0], home, "owner/tiny", "owner/none", "owner/gated")


def test_a_model_is_downloaded_verified_and_loads(downloaded, hub, tiny_bert):
    path, sha256 = downloaded[0]
    assert COMMIT in path
    assert sha256 == find_model(str(tiny_bert)).sha256
    model = load_model(find_model(path), ModelSettings(), "cpu")
    assert model.get_embedding_dimension() == 32


def test_no_pickle_is_fetched(downloaded, hub):
    asked = [path for path in hub[1] if "/resolve/" in path]
    assert any(path.endswith("model.safetensors") for path in asked)
    assert not any(path.endswith(".bin") for path in asked)


def test_a_model_that_the_hub_does_not_have_is_named(downloaded):
    assert downloaded[1] == "owner/none: no such folder here and no such model on the Hub (private ones need HF_TOKEN)"


def test_a_gated_model_says_what_to_do(downloaded):
    assert downloaded[2] == "owner/gated: its owner asks you to accept a licence on the Hub first; then set HF_TOKEN"


def test_without_a_network_what_was_downloaded_is_used_and_the_rest_is_an_error_that_says_what_works(downloaded, home):
    found, error = probe("http://127.0.0.1:9", home, "owner/tiny", "owner/other")
    assert found == downloaded[0]
    assert error.startswith("owner/other: the Hub could not be reached and no copy is cached: ")
    assert error.endswith("Use a local folder, or builtin:all-MiniLM-L6-v2, which needs no network")


def test_offline_mode_is_named_as_the_reason(home, downloaded):
    (error,) = probe("http://127.0.0.1:9", home, "owner/other", HF_HUB_OFFLINE="1")
    assert error.startswith("owner/other: the Hub could not be reached (HF_HUB_OFFLINE is set) and no copy is cached: ")
