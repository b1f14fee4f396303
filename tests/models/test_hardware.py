from __future__ import annotations

import pytest
import torch

from shoptalk.errors import SettingsError
from shoptalk.models import hardware
from shoptalk.models.hardware import Hardware, autocast, choose_hardware, memory_limit_bytes
from shoptalk.settings import ModelSettings


def on_gpu(monkeypatch, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error():
    assert choose_hardware(ModelSettings()).device == "cpu"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(SettingsError, match=f"model.device is {device}, but torch sees no CUDA device"):
            choose_hardware(ModelSettings(device=device))


def test_a_cpu_uses_bf16_only_where_it_has_instructions_for_it(monkeypatch):
    for has_it, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(hardware, "cpu_has_bf16", lambda has_it=has_it: has_it)
        assert choose_hardware(ModelSettings(device="cpu")).precision == precision


def test_fp32_is_kept_when_asked_for(monkeypatch):
    on_gpu(monkeypatch, bf16=True)
    assert choose_hardware(ModelSettings(precision="fp32")) == Hardware("cuda", "fp32", "model.precision is fp32")


@pytest.mark.parametrize(
    ("bf16", "model_type", "precision"),
    [(True, "bert", "bf16"), (True, "gemma3_text", "bf16"), (False, "bert", "fp16"), (False, "gemma3_text", "fp32")],
)
def test_a_gpu_without_bf16_uses_fp16_but_not_for_gemma_3(monkeypatch, bf16, model_type, precision):
    on_gpu(monkeypatch, bf16)
    assert choose_hardware(ModelSettings(), model_type).precision == precision


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_chosen_precision_over_fp32_weights(precision, dtype):
    layer = torch.nn.Linear(4, 4)
    with autocast(Hardware("cpu", precision, "")):
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_the_memory_limit_is_no_more_than_the_machine_has():
    import psutil

    assert 0 < memory_limit_bytes() <= psutil.virtual_memory().total
