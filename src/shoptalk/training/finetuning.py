"""The stage train: fine-tune with sentence-transformers' trainer; keep the best checkpoint by dev score.

Killed and started again, it goes on from the last complete checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shoptalk.beir import read_dataset, write_jsonl
from shoptalk.errors import SourceError, TrainingFailed
from shoptalk.models.encoder import CachedEncoder, TorchEncoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import autocast, choose_hardware
from shoptalk.models.loading import load_model, quiet_libraries, training_dropout
from shoptalk.progress import task
from shoptalk.records import Dataset, Example
from shoptalk.settings import Settings, TrainSettings
from shoptalk.training.checkpoints import SealCheckpoints, newest_complete
from shoptalk.training.dev import METRIC, DevScore, dev_part
from shoptalk.training.losses import LOSSES
from shoptalk.training.negatives import read_examples
from shoptalk.training.sampler import ConflictFreeBatchSampler, Conflicts
from shoptalk.training.watching import EarlyStop, StopOnNonFinite, Watch
from shoptalk.workspace import StageContext

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Plan:
    """How long training runs."""

    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.steps_per_epoch * self.epochs


def plan_training(steps_per_epoch: int, settings: TrainSettings) -> Plan:
    """Epochs: the number asked for, or as many as make `min_steps`, between 3 and 10."""
    if settings.epochs == "auto":
        return Plan(steps_per_epoch, min(10, max(3, math.ceil(settings.min_steps / steps_per_epoch))))
    return Plan(steps_per_epoch, settings.epochs)


def finetune(stage: StageContext) -> None:
    """Write candidates/best (a plain sentence-transformers model), log.jsonl and training.json. Raises TrainingFailed."""
    import torch

    settings = stage.settings
    found = find_model(settings.model.base)
    hardware = choose_hardware(settings.model, found.model_type)
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    dataset = read_dataset(stage.read("dataset"), ["train", "dev"])
    examples = read_examples(stage.read("examples"))
    base = CachedEncoder(found, settings.model, stage.cache)
    sampler: ConflictFreeBatchSampler | None = None
    if dataset.task == "retrieval":
        part = dev_part(dataset, base, settings.train, np.random.default_rng(settings.seed))
        rows, sampler = _rows_of_examples(examples, dataset, settings)
    else:
        part, rows = dataset, _rows_of_pairs(dataset)
    n_batches = len(sampler) if sampler else max(1, math.ceil(len(rows[next(iter(rows))]) / settings.train.batch_size))
    plan = plan_training(n_batches, settings.train)
    dev = DevScore(part, hardware)
    base_score = dev.score(base)
    with quiet_libraries():
        model = load_model(found, settings.model, hardware.device)
        history, best_checkpoint = _train(model, rows, sampler, plan, dev, stage.scratch, settings, hardware.precision)
        best_score = _keep_best(Path(best_checkpoint), stage.out / "best", model, dev, history)
    write_jsonl(stage.out / "log.jsonl", [{"step": 0, "dev": base_score}, *_log_rows(history)])
    summary = {
        "base_dev": base_score,
        "best_dev": best_score,
        "best_step": int(Path(best_checkpoint).name.rpartition("-")[2]),
        "steps": plan.steps,
        "steps_done": max((row["step"] for row in history), default=0),
        "epochs": plan.epochs,
        "examples": len(next(iter(rows.values()))),
        "negatives_per_example": sum(name.startswith("negative") for name in rows),
        "precision": hardware.precision,
        "precision_why": hardware.why,
        "device": hardware.device,
        "dev_passages": len(part.passages),
        "metric": "spearman" if dataset.task == "similarity" else "ndcg@10",
    }
    (stage.out / "training.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def time_steps(encoder: TorchEncoder, dataset: Dataset, settings: Settings, n: int) -> float:
    """Seconds of a training step, measured: forward and backward of `n` real batches after one to warm up. For plans only:
    the encoder's model is left with gradients.
    """
    import torch

    model, hardware = encoder.model, encoder.hardware
    if dataset.task == "similarity":
        columns = [[p.sentence1 for p in dataset.pairs["train"]], [p.sentence2 for p in dataset.pairs["train"]]]
    else:
        judged = dataset.qrels["train"]
        positives = [dataset.passages[next(iter(found))].content for found in judged.values()]
        columns = [[dataset.queries[q].text for q in judged], positives]
    size = min(settings.train.batch_size, len(columns[0]))
    loss = LOSSES["retrieval"](model, settings.train)
    started = 0.0
    with quiet_libraries(), training_dropout(model, 0.0, settings.train.hidden_dropout):
        model.train()
        for step in range(n + 1):
            if step == 1:
                started = time.monotonic()
            rows = [(step * size + i) % len(columns[0]) for i in range(size)]
            features = [model.preprocess([column[i] for i in rows]) for column in columns]
            features = [
                {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in f.items()} for f in features
            ]
            with autocast(hardware):
                value = loss(features, None)
            value.backward()
    return (time.monotonic() - started) / n


Rows = Mapping[str, list[Any]]


def _rows_of_examples(
    examples: list[Example], dataset: Dataset, settings: Settings
) -> tuple[Rows, ConflictFreeBatchSampler]:
    if len(examples) < 2:
        raise SourceError(
            f"{len(examples)} training pairs; at least 2 are needed to train at all, 100 for it to be worth it"
        )
    rows: dict[str, list[Any]] = {
        "anchor": [e.anchor for e in examples],
        "positive": [e.positive for e in examples],
    }
    for column in range(len(examples[0].negatives)):
        rows[f"negative_{column + 1}"] = [e.negatives[column] for e in examples]
    sampler = ConflictFreeBatchSampler(Conflicts.of(examples, dataset), settings.train.batch_size, settings.seed)
    return rows, sampler


def _rows_of_pairs(dataset: Dataset) -> Rows:
    pairs = dataset.pairs["train"]
    return {
        "sentence1": [p.sentence1 for p in pairs],
        "sentence2": [p.sentence2 for p in pairs],
        "score": [p.score for p in pairs],  # CoSENT looks at their order alone
    }


def _train(
    model: SentenceTransformer,
    rows: Rows,
    sampler: ConflictFreeBatchSampler | None,
    plan: Plan,
    dev: DevScore,
    scratch: Path,
    settings: Settings,
    precision: str,
) -> tuple[list[dict[str, Any]], str]:
    """Train, or go on training, in `scratch`. Returns the trainer's log and the folder of the best checkpoint."""
    from datasets import Dataset as Table

    from shoptalk.training.trainer import Trainer

    resume = newest_complete(scratch)
    if resume is not None:
        state = json.loads((resume / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] >= plan.steps or EarlyStop.is_due(state["log_history"], settings.train.patience):
            return state["log_history"], str(scratch / f"checkpoint-{state['best_global_step']}")
    with task("training", plan.steps, _step_of(resume)) as bar:
        attention = 0.0 if dev.hardware.device == "cpu" else None
        with training_dropout(model, attention, settings.train.hidden_dropout):
            trainer = Trainer(
                sampler=sampler,
                model=model,
                args=_arguments(model, plan, scratch, settings, precision),
                train_dataset=Table.from_dict(dict(rows)),
                loss=LOSSES[dev.dataset.task](model, settings.train),
                evaluator=dev,
                callbacks=[
                    SealCheckpoints(),
                    StopOnNonFinite(scratch),
                    EarlyStop(settings.train.patience),
                    Watch(bar),
                ],
            )
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    best = trainer.state.best_global_step
    if best is None:
        raise TrainingFailed(
            f"training ended after {trainer.state.global_step} steps without any evaluation; raise train.epochs"
        )
    return trainer.state.log_history, str(scratch / f"checkpoint-{best}")


def _arguments(model: SentenceTransformer, plan: Plan, scratch: Path, settings: Settings, precision: str) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    train = settings.train
    every = max(1, math.ceil(plan.steps / train.evaluations))
    query, passage = model.prompts.get("query") or "", model.prompts.get("document") or ""
    columns = {"anchor": query, "sentence1": query, "sentence2": query, "positive": passage}
    columns |= {f"negative_{i}": passage for i in range(1, 33)}
    return SentenceTransformerTrainingArguments(
        output_dir=str(scratch),
        max_steps=plan.steps,
        per_device_train_batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_share,
        weight_decay=train.weight_decay,
        seed=settings.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not str(model.device).startswith("cuda"),
        prompts={column: prompt for column, prompt in columns.items() if prompt} or None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        metric_for_best_model=f"eval_{METRIC}",
        greater_is_better=True,
        load_best_model_at_end=False,
        logging_steps=max(1, plan.steps // 50),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _keep_best(
    checkpoint: Path, out: Path, model: SentenceTransformer, dev: DevScore, history: list[dict[str, Any]]
) -> float:
    """Reload the best checkpoint from disk, assert that it still has its score, and save it as a plain model."""
    from sentence_transformers import SentenceTransformer as Model

    said = max(row[f"eval_{METRIC}"] for row in history if f"eval_{METRIC}" in row)
    best = Model(
        str(checkpoint),
        device=str(model.device),
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    best.prompts = dict(model.prompts)
    best.max_seq_length = model.max_seq_length
    found = dev(best)[METRIC]
    if abs(found - said) > 1e-6:
        raise TrainingFailed(
            f"{checkpoint}: scored {said:.6f} on dev while training and {found:.6f} after reloading; "
            "the checkpoint is not what was trained"
        )
    best.save_pretrained(str(out), safe_serialization=True, create_model_card=False)
    return found


def _log_rows(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log without what depends on the clock."""
    kept = {
        "step": "step",
        "epoch": "epoch",
        "loss": "loss",
        "learning_rate": "learning_rate",
        f"eval_{METRIC}": "dev",
    }
    rows = ({name: row[key] for key, name in kept.items() if key in row} for row in history)
    return [row for row in rows if "loss" in row or "dev" in row]


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
