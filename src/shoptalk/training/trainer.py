"""sentence-transformers' trainer with shoptalk's batches and engine, and without its printing and its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from shoptalk.errors import TrainingFailed
from shoptalk.progress import reporter
from shoptalk.training.engine import Engine
from shoptalk.training.lora import has_lora, load_lora, save_lora
from shoptalk.training.sampler import ConflictFreeBatchSampler

_EXPLODED = 20.0


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]  # untyped base class
    """The trainer as it is, but for the batches (`sampler` deals them when there is one), what happens when memory runs out,
    and a loss that is no use any more. Raises TrainingFailed.
    """

    def __init__(self, sampler: ConflictFreeBatchSampler | None, engine: Engine, model: Any, **arguments: Any) -> None:
        self._sampler = sampler
        self._engine = engine
        super().__init__(model=model, **arguments)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def get_batch_sampler(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        """Called by the trainer for its one training set."""
        if self._sampler is not None:
            return self._sampler
        return super().get_batch_sampler(dataset, *arguments, **named)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """One step; after running out of GPU memory the same step again in smaller chunks, with the same random numbers."""
        while True:
            self._engine.begin_step()
            states = _random_states(self.args.device)
            try:
                return super().training_step(model, dict(inputs), num_items_in_batch)
            except torch.OutOfMemoryError as error:
                if not self._engine.shrink():
                    raise TrainingFailed(
                        "the GPU's memory does not hold a single text: lower model.max_tokens, set "
                        f"train.gradient_checkpointing=true or train.method=lora ({str(error)[:200]})"
                    ) from None
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _restore(states)
            reporter().stage(
                "train", f"out of GPU memory: chunks of {self._engine.chunk_tokens} tokens from here, same negatives"
            )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """The loss of a batch; when it is not finite, or has exploded, the batch goes to disk and training stops."""
        loss = super().compute_loss(model, inputs, *arguments, **named)
        value = float((loss[0] if isinstance(loss, tuple) else loss).detach())
        first = next((row["loss"] for row in self.state.log_history if "loss" in row), None)
        exploded = first is not None and value > _EXPLODED * max(first, 0.1)
        if value != value or value in (float("inf"), float("-inf")) or exploded:
            self._stop(value, inputs)
        return loss

    def _stop(self, loss: float, inputs: dict[str, Any]) -> None:
        note = Path(self.args.output_dir) / "not-finite.json"
        decode = getattr(self.model.tokenizer, "batch_decode", None)
        texts = {
            name.removesuffix("_input_ids"): decode(value.tolist(), skip_special_tokens=True)
            for name, value in inputs.items()
            if name.endswith("_input_ids") and decode is not None and value.ndim == 2
        }
        step = self.state.global_step + 1
        written = {"step": step, "loss": str(loss), "batch": texts, "log": self.state.log_history[-5:]}
        note.write_text(json.dumps(written, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
        raise TrainingFailed(
            f"loss is {loss:g} at step {step}; lower train.learning_rate or set model.precision=fp32 (the batch: {note})"
        )

    def add_model_card_callback(self, *arguments: Any, **named: Any) -> None:
        """No model card: collecting its examples takes time, and the card is written where a model is exported."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The model alone, without the card and the pickled arguments that the parent adds, and how the engine cut batches."""
        folder = Path(output_dir or self.args.output_dir)
        if has_lora(self.model):
            save_lora(self.model, folder)
        else:
            self.model.save_pretrained(str(folder), create_model_card=False)
        self._engine.save(folder)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if has_lora(self.model):
            load_lora(self.model, Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)


def _random_states(device: torch.device) -> list[tuple[Any, Any]]:
    states = [(torch.set_rng_state, torch.get_rng_state())]
    if device.type == "cuda":
        states.append((lambda state: torch.cuda.set_rng_state(state, device), torch.cuda.get_rng_state(device)))
    return states


def _restore(states: list[tuple[Any, Any]]) -> None:
    for put, state in states:
        put(state)
