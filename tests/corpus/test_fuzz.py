"""Truncated and mutated real files of every format, parsed in a real worker: the parent never fails and never waits for long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import every_sample

from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.pool import Job, Pool
from shoptalk.corpus.readers import READERS, Document
from shoptalk.settings import IngestSettings

SAMPLES = every_sample()
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(IngestSettings(timeout_s=LIMIT_S, memory_mb=512), 1) as running:
        yield running


@st.composite
def broken(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes of a real file cut off, with bytes changed, a part doubled or a part gone."""
    data = bytearray(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)
    for _ in range(draw(st.integers(0, 8))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["change", "insert", "delete", "double"]))
        if what == "change":
            data[at] = draw(st.integers(0, 255))
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif what == "delete":
            del data[at : at + draw(st.integers(1, 64))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


@pytest.mark.parametrize("suffix", READERS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_broken_file_is_a_document_or_a_reason(pool, suffix, data):
    raw = data.draw(broken(SAMPLES[suffix]))
    started = time.monotonic()
    answer = pool.one(Job(suffix, "name", raw))
    assert time.monotonic() - started < 2 * LIMIT_S
    if "unreadable" in answer:
        assert isinstance(answer["unreadable"], str)
        assert answer["unreadable"].strip()
        return
    document = Document(answer["title"], answer["text"], tuple(answer["page_starts"]), answer["note"])
    assert all(0 <= start <= len(document.text) for start in document.page_starts)
    for passage in Chunker(None, 64).split(document, "source"):
        passage.content.encode()
        assert passage.text.strip()
