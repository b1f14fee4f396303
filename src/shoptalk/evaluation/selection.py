"""The stage select: which point on the line between base and tuned weights is shipped.

Tuned weights gain on the domain and may lose on everything else; points between often keep most of both (Wortsman et al. 2022).
Chosen on dev queries and one half of the retention set. The test split and the other half are not opened here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shoptalk.beir import read_dataset
from shoptalk.evaluation.retention import Kept, able_languages, mean, retention_set
from shoptalk.models.encoder import CachedEncoder, Encoder
from shoptalk.models.finding import CARD, FoundModel, find_model
from shoptalk.models.interpolation import interpolate
from shoptalk.progress import task
from shoptalk.records import Dataset
from shoptalk.retrieval.haystack import dev_part
from shoptalk.retrieval.metrics import PRIMARY, of_metric, per_query
from shoptalk.retrieval.ranking import pair_cosines, rank
from shoptalk.retrieval.significance import correlation
from shoptalk.settings import SelectSettings
from shoptalk.workspace import StageContext


@dataclass(frozen=True, slots=True)
class Point:
    """A model `weight` of the way from base to tuned. Scores are on the part of dev's haystack and on the choosing half;
    None where nothing was measured.
    """

    weight: float
    dev: float
    dev_gain: float
    general: float | None = None
    general_loss: float | None = None
    cross_lingual: float | None = None
    cross_lingual_loss: float | None = None
    allowed: bool = True
    chosen: bool = False


def select(stage: StageContext) -> None:
    """Write model/: a plain sentence-transformers folder, and shoptalk.json beside its files, which says where it came from."""
    settings = stage.settings
    candidates = stage.read("candidates")
    training = json.loads((candidates / "training.json").read_text(encoding="utf-8"))
    base = find_model(settings.model.base)
    best = find_model(str(candidates / "best"))
    inner = tuple(sorted({weight for weight in settings.select.weights if 0 < weight < 1}))
    ends_only = inner == () and 0.0 not in settings.select.weights
    between = {} if ends_only else interpolate(base, best, inner, settings.model, stage.scratch / "between")
    movable = not ends_only and len(between) == len(inner)
    found = {1.0: best}
    if movable:
        found |= {weight: find_model(str(folder)) for weight, folder in between.items()}
    points = _measured(stage, base, found)
    if movable and 0.0 not in settings.select.weights:
        points = [point for point in points if point.weight > 0]
    chosen = choose(points) if movable else points[-1]
    folder = best.path
    if chosen.weight == 0:
        (folder,) = interpolate(base, best, (0.0,), settings.model, stage.scratch / "base").values()
    elif chosen.weight < 1:
        folder = between[chosen.weight]
    shutil.copytree(folder, stage.out, dirs_exist_ok=True)
    (stage.out / CARD).write_text(
        json.dumps(
            {
                "base_model": settings.model.base,
                "chosen": "point between base and tuned weights",
                "weight": chosen.weight,
                "words": words(points, chosen, movable, settings.select),
                "dev": training["best_dev"] if chosen.weight == 1 else chosen.dev,
                "base_dev": training["base_dev"],
                "step": training["best_step"],
                "constraint": settings.select.max_general_loss,
                "frontier": [asdict(point) | {"chosen": point.weight == chosen.weight} for point in points],
            },
            indent=1,
            allow_nan=False,
        )
        + "\n",
        encoding="utf-8",
    )


def choose(points: Sequence[Point]) -> Point:
    """The best on dev of those that keep what must be kept, of equals the one nearest to the tuned weights; the first point, which
    is the base where it is among them, unless another is better.
    """
    better = [point for point in points if point.allowed and point.dev > points[0].dev]
    return max(better, key=lambda point: (point.dev, point.weight), default=points[0])


def words(points: Sequence[Point], chosen: Point, movable: bool, settings: SelectSettings) -> str:
    """One sentence: what is shipped and why."""
    if not movable:
        return "the tuned model as it is: no other point was asked for, or its weights are not those of the base model moved"
    if chosen.weight == 0:
        return "the base model: no point on the way to the tuned weights was better on dev within the limit on general text"
    where = "the tuned weights" if chosen.weight == 1 else f"{chosen.weight:.0%} of the way from base to tuned weights"
    said = f"{where}: {chosen.dev_gain:+.3f} on dev"
    if chosen.general_loss is not None:
        said += f", {-chosen.general_loss:+.3f} on general text (limit {-settings.max_general_loss:+.3f})"
    barred = [f"{point.weight:.0%}" for point in points if not point.allowed]
    return said + (f"; left out for what they lose: {', '.join(barred)}" if barred else "")


def _measured(stage: StageContext, base: FoundModel, models: dict[float, FoundModel]) -> list[Point]:
    """The base and every model, by weight."""
    settings = stage.settings
    ours = CachedEncoder(base, settings.model, stage.cache)
    dataset = read_dataset(stage.read("dataset"), ["dev"])
    part = dataset if dataset.task == "similarity" else dev_part(dataset, ours, settings.train, settings.seed)
    general = retention_set(settings.select)
    before = general.measure(ours, "choose") if general else None
    start = Point(0.0, dev := _dev(part, ours), 0.0, *(_kept(before, before, settings.select)))
    points = [start]
    with task("points between base and tuned", len(models)) as bar:
        for weight in sorted(models):
            own = models[weight]
            # Named as the base: where the name decides the prompts, all must get the same.
            encoder = CachedEncoder(
                FoundModel(settings.model.base, own.path, own.sha256, own.config), settings.model, stage.cache
            )
            score = _dev(part, encoder)
            kept = _kept(before, general.measure(encoder, "choose") if general else None, settings.select)
            losses = [loss for loss in (kept[1], kept[3]) if loss is not None]
            allowed = all(loss <= settings.select.max_general_loss for loss in losses)
            points.append(Point(weight, score, score - dev, *kept, allowed))
            bar.advance()
    return points


def _kept(
    before: Kept | None, after: Kept | None, settings: SelectSettings
) -> tuple[float | None, float | None, float | None, float | None]:
    """general, its loss, cross-lingual, its loss; None where nothing was measured."""
    if before is None or after is None:
        return None, None, None, None
    able = able_languages(before, settings)
    others = [mean({q: v for name in able for q, v in kept.others[name].items()}) for kept in (before, after)]
    general = mean(after.general)
    return (
        general,
        mean(before.general) - general,
        others[1] if able else None,
        others[0] - others[1] if able else None,
    )


def _dev(part: Dataset, encoder: Encoder) -> float:
    if part.task == "similarity":
        pairs = part.pairs["dev"]
        return correlation(np.array([pair.score for pair in pairs]), pair_cosines(encoder, pairs))
    qrels = part.qrels["dev"]
    return mean(of_metric(per_query(qrels, rank(encoder, part, list(qrels), 10), [PRIMARY]), PRIMARY))
