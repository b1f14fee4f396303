"""sentence-transformers' trainer with shoptalk's batches, and without its printing and its model card."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformerTrainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from shoptalk.training.sampler import ConflictFreeBatchSampler


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]  # untyped base class
    """The trainer as it is, but for the batches: `sampler` deals them when there is one."""

    def __init__(self, sampler: ConflictFreeBatchSampler | None, model: Any, **arguments: Any) -> None:
        self._sampler = sampler
        super().__init__(model=model, **arguments)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def get_batch_sampler(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        """Called by the trainer for its one training set."""
        if self._sampler is not None:
            return self._sampler
        return super().get_batch_sampler(dataset, *arguments, **named)

    def add_model_card_callback(self, *arguments: Any, **named: Any) -> None:
        """No model card: collecting its examples takes time, and the card is written where a model is exported."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The model alone, without the card and the pickled arguments that the parent adds."""
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)
