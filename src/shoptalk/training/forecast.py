"""What a training will take, said before step 1: steps, negatives, memory, minutes here and on GPUs, and whether the data is small."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shoptalk.training.batches import Batches, Plan
from shoptalk.training.memory import MemoryPlan

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Gpu:
    """A GPU that can be rented. `tflops`: dense peak in half precision, from its data sheet; `dollars_an_hour`: a usual price for
    one on demand, which differs by provider and by month.
    """

    name: str
    tflops: float
    dollars_an_hour: float


GPUS = (Gpu("T4", 65, 0.4), Gpu("L4", 121, 0.8), Gpu("A100", 312, 2.0), Gpu("H100", 989, 3.5))
_REACHED = 0.25  # of the peak, by sentence encoders of ordinary size; an assumption, not measured on each of them
_SECONDS_A_STEP_AT_LEAST = 0.05  # tokenizing, launching kernels, the optimizer
_SMALL = (
    (100, "under 100 pairs: expect little, and look at the interval; more labels help more than any setting"),
    (200, "under 200 pairs: enough to try; the gain will be uncertain"),
    (500, "under 500 pairs: small; gains of a few points are usual, so are none"),
    (1_000, "under 1,000 pairs: workable"),
    (2_000, "under 2,000 pairs: good; more still helps"),
)


@dataclass(frozen=True)
class Forecast:
    """Seconds are of training steps alone; `gpus` maps a name to (minutes, dollars), rough estimates for the same steps."""

    steps: int
    epochs: int
    rows_a_batch: float
    negatives_a_query: float
    memory_gib: float
    memory_notice: str
    seconds: float
    gpus: dict[str, tuple[float, float]]
    pairs: int
    data: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        gpus = ", ".join(f"{name} {minutes:.0f} min (${dollars:.2f})" for name, (minutes, dollars) in self.gpus.items())
        found = [
            f"{self.steps} steps of {self.rows_a_batch:.0f} pairs in {self.epochs} epochs, about {self.negatives_a_query:.0f} "
            f"negatives a query, {self.memory_gib:.1f} GiB, {self.seconds / 60:.1f} minutes here without evaluations",
            f"on rented GPUs, roughly: {gpus}",
        ]
        return [*found, *([self.memory_notice] if self.memory_notice else []), *([self.data] if self.data else [])]


def forecast(
    model: SentenceTransformer,
    batches: Batches,
    plan: Plan,
    memory: MemoryPlan,
    seconds_a_step: float,
) -> Forecast:
    """Put together what was measured. seconds_a_step: of a few real steps on this machine."""
    weights = sum(p.numel() for p in model.parameters())
    table = model.transformers_model.get_input_embeddings() if model.transformers_model is not None else None
    weights -= sum(p.numel() for p in table.parameters()) if table is not None else 0
    work = 6 * weights * memory.step_tokens  # two operations a weight and token forward, four backward
    gpus = {}
    for gpu in GPUS:
        seconds = plan.steps * max(_SECONDS_A_STEP_AT_LEAST, work / (gpu.tflops * 1e12 * _REACHED))
        gpus[gpu.name] = (round(seconds / 60, 1), round(seconds / 3600 * gpu.dollars_an_hour, 2))
    held = memory.step if memory.held_tokens is None else memory.available - memory.fixed
    passages = batches.passages_a_batch
    in_batch = passages - 1 if batches.objective.in_batch else 0
    return Forecast(
        plan.steps,
        plan.epochs,
        round(batches.rows_a_batch, 1),
        round(in_batch + batches.n_negatives * (passages if batches.objective.in_batch else 1), 1),
        round((memory.fixed + max(0, held)) / 2**30, 2),
        memory.notice,
        round(plan.steps * seconds_a_step, 1),
        gpus,
        batches.n_rows,
        next((words for most, words in _SMALL if batches.n_rows < most), ""),
    )
