"""What only a CUDA device can show: `pytest -m gpu`. A killed run goes on to nearly the same weights there: kernels that add in
any order make it nearly. The tolerance that is promised is a mean cosine of 0.999 between the embeddings of both models.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetuning import Spy

from shoptalk.models.finding import find_model
from shoptalk.models.loading import load_model
from shoptalk.progress import reporting_to
from shoptalk.training import finetune
from shoptalk.workspace import StageContext
from toy import sentence_pairs, stage_in, toy_retrieval, toy_settings, train_toy, training_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

PROMISED_COSINE = 0.999


def embeddings(stage: StageContext) -> np.ndarray:
    model = load_model(find_model(str(stage.out / "best")), stage.settings.model, "cpu")
    return np.asarray(model.encode([question for question, _ in sentence_pairs()], normalize_embeddings=True))


def cosine(one: StageContext, two: StageContext) -> float:
    return float((embeddings(one) * embeddings(two)).sum(axis=1).mean())


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_killed_run_goes_on_to_nearly_the_same_model(tmp_path: Path, tiny_bert: Path, precision: str) -> None:
    settings = toy_settings(tiny_bert, model={"device": "cuda", "precision": precision}, train={"hidden_dropout": 0.1})
    whole = train_toy(tmp_path / "whole", toy_retrieval(), settings)
    assert training_of(whole)["device"].startswith("cuda")
    with pytest.raises(KeyboardInterrupt), reporting_to(Spy(interrupt_after=training_of(whole)["steps"] // 2 + 3)):
        train_toy(tmp_path / "cut", toy_retrieval(), settings)
    at = tmp_path / "cut"
    again = stage_in(at / "train", settings, dataset=at / "dataset", examples=at / "examples" / "out")
    finetune(again)
    assert cosine(whole, again) >= PROMISED_COSINE
    assert training_of(again)["best_dev"] == pytest.approx(training_of(whole)["best_dev"], abs=0.02)


def test_running_out_of_memory_makes_chunks_smaller_and_learns_the_same(tmp_path: Path, tiny_bert: Path) -> None:
    model = {"device": "cuda", "precision": "fp32"}
    roomy = train_toy(tmp_path / "roomy", toy_retrieval(), toy_settings(tiny_bert, model=model))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(64 * 2**20 / total)
    try:
        settings = toy_settings(tiny_bert, model=model, train={"chunk_tokens": 16_384, "memory_gib": 64.0})
        tight = train_toy(tmp_path / "tight", toy_retrieval(), settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert cosine(roomy, tight) >= PROMISED_COSINE
