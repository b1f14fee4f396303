"""The whole stage with a language model behind a local server: what is asked, what is kept, who agreed to the cost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_server import LLMServer, passages, settings_for
from shoptalk.beir import read_jsonl, write_passages
from shoptalk.errors import NotConfirmed
from shoptalk.queries import make_queries
from shoptalk.workspace import StageContext


@pytest.fixture
def stage(make_stage, tiny_bert: Path, tmp_path: Path, server: LLMServer) -> Callable[..., StageContext]:
    """stage(**llm): the stage queries over six passages, with the server as its provider."""
    names = (
        "heron",
        "otter",
        "badger",
        "marten",
        "falcon",
        "salmon",
    )  # the server's queries end in a passage's last word
    texts = [replace(one, text=f"{one.text} Then call {name}") for one, name in zip(passages(6), names, strict=True)]
    write_passages(tmp_path / "passages/corpus.jsonl", texts)

    def make(queries: dict[str, Any] | None = None, source: Path = tmp_path, **llm: Any) -> StageContext:
        values = {
            "input": {"source": str(source)},
            "model": {"base": str(tiny_bert)},
            "queries": {"round_trip_k": 0, "generic_share": 1.0, "off_language": False, **(queries or {})},
            "llm": settings_for(server, **llm).model_dump(),
        }
        return make_stage(values, passages=tmp_path / "passages")

    return make


def rows_of(stage: StageContext, name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(stage.out / f"{name}.jsonl")]


def test_queries_of_the_model_become_judged_queries_with_their_origin(stage, server: LLMServer) -> None:
    found = stage(max_total_tokens=1_000_000)
    make_queries(found)
    queries, judged = rows_of(found, "queries"), rows_of(found, "judgements")
    assert len(server.paid) == 6
    assert {row["metadata"]["origin"] for row in queries} == {"llm"}
    assert {row["metadata"]["kind"] for row in queries} <= {
        "natural",
        "keywords",
        "acronym",
        "paraphrase",
        "comparison",
        "how-to",
    }
    assert {row["passage_id"] for row in judged} == {f"p{i}" for i in range(6)}
    usage = (found.out / "usage.json").read_text(encoding="utf-8")
    assert '"calls": 6' in usage
    assert (found.out / "yields.json").is_file()


def test_the_stage_run_again_pays_nothing(stage, server: LLMServer) -> None:
    make_queries(stage(max_total_tokens=1_000_000))
    first = dict(server.paid)
    make_queries(stage(max_total_tokens=1_000_000))
    assert dict(server.paid) == first


@pytest.mark.parametrize("judged", [False, True])
def test_without_a_person_and_without_a_cap_nothing_is_spent(stage, server: LLMServer, judged: bool) -> None:
    with pytest.raises(NotConfirmed, match=r"there is no cap: set llm\.max_total_tokens"):
        make_queries(stage({"llm_judge": judged}))
    assert not server.asked


def test_a_person_who_says_no_is_heeded_and_sees_the_estimate(stage, server: LLMServer) -> None:
    said: list[str] = []
    with pytest.raises(NotConfirmed, match="nothing was spent"):
        make_queries(replace(stage(), confirm=lambda words: bool(said.append(words))))
    assert "6" in said[0]
    assert not server.asked
    make_queries(replace(stage(), confirm=lambda words: True))
    assert len(server.paid) == 6
