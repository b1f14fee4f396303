from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoptalk
from shoptalk.errors import InputError, ModelError
from shoptalk.models.encoder import load_encoder
from shoptalk.settings import ModelSettings

FP32 = ModelSettings(device="cpu", precision="fp32")
TEXTS = ["approve the travel request", "hotel", "the invoice of the member", "hotel"]


@pytest.fixture(scope="module")
def prompted(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own configuration holds a prompt for queries and one for documents."""
    folder = tmp_path_factory.mktemp("prompted")
    settings = FP32.model_copy(update={"query_prompt": "ask: ", "passage_prompt": "text: "})
    load_encoder(str(tiny_bert), settings).model.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def embedder(prompted: Path) -> Any:
    return shoptalk.Embedder(prompted, device="cpu", precision="fp32")


def test_documents_and_queries_are_lists_with_the_models_own_prompts(embedder: Any, prompted: Path) -> None:
    model = load_encoder(str(prompted), FP32).model
    documents, query = embedder.embed_documents(TEXTS), embedder.embed_query("hotel")
    assert np.abs(np.array(documents) - model.encode(TEXTS, prompt="text: ", normalize_embeddings=True)).max() < 1e-5
    assert np.abs(np.array(query) - model.encode("ask: hotel", prompt="", normalize_embeddings=True)).max() < 1e-5
    assert {type(documents), type(documents[0]), type(query)} == {list}
    assert {type(documents[0][0]), type(query[0])} == {float}
    assert documents[1] == documents[3] != query
    assert embedder.dim == len(query) == 32
    assert embedder.embed_documents([]) == []


def test_the_async_twins_give_the_same(embedder: Any) -> None:
    async def both() -> tuple[list[float], list[list[float]]]:
        query, documents = await asyncio.gather(embedder.aembed_query("hotel"), embedder.aembed_documents(TEXTS))
        return query, documents

    assert asyncio.run(both()) == (embedder.embed_query("hotel"), embedder.embed_documents(TEXTS))


def test_threads_take_turns(embedder: Any) -> None:
    from shoptalk.models.encoder import TorchEncoder
    from shoptalk.models.hardware import Hardware

    half = TorchEncoder(embedder.encoder.model, Hardware("cpu", "bf16", "for this test"), "x")
    alone = [half.encode_queries([text]) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: half.encode_queries([text]), TEXTS * 25))
    assert all(np.array_equal(vector, alone[index % len(TEXTS)]) for index, vector in enumerate(found))
    assert {str(p.dtype) for p in half.model.parameters()} == {"torch.float32"}


def test_what_is_no_text_is_refused(embedder: Any) -> None:
    with pytest.raises(InputError, match="a list of texts, not one text"):
        embedder.embed_documents("hotel")
    with pytest.raises(InputError, match="a document to embed is a int, not a text"):
        embedder.embed_documents(["hotel", 7])
    with pytest.raises(InputError, match="a query to embed is a NoneType, not a text"):
        embedder.embed_query(None)
    with pytest.raises(ModelError, match="no such folder"):
        shoptalk.Embedder("no/such/model/here")


def test_it_has_what_langchains_base_class_has() -> None:
    for name in ("embed_query", "embed_documents", "aembed_query", "aembed_documents"):
        (_, argument) = inspect.signature(getattr(shoptalk.Embedder, name)).parameters
        assert argument == (
            "text" if name.endswith("query") else "texts"
        )  # LangChain calls them by position and by name
        assert inspect.iscoroutinefunction(getattr(shoptalk.Embedder, name)) == name.startswith("a")


def test_langchain_accepts_it(embedder: Any) -> None:
    embeddings = pytest.importorskip("langchain_core.embeddings")
    from langchain_core.vectorstores import InMemoryVectorStore

    assert isinstance(embedder, embeddings.Embeddings)
    store = InMemoryVectorStore(embedder)
    store.add_texts(TEXTS[:3])
    found = store.similarity_search_with_score("hotel", k=3)
    assert len(found) == 3
    scores = {document.page_content: score for document, score in found}
    wanted = np.array(embedder.embed_documents(TEXTS[:3])) @ np.array(embedder.embed_query("hotel"))
    assert [scores[text] for text in TEXTS[:3]] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_the_name_is_there_and_torch_is_not_until_it_is_used() -> None:
    code = "import shoptalk, sys; assert 'Embedder' in shoptalk.__all__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
