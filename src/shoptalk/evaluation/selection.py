"""The stage select: which point on the line between base and tuned weights is shipped.

Tuned weights gain on the domain and may lose on everything else; points between often keep most of both (Wortsman et al. 2022).
Chosen on dev queries and one half of the retention set. The test split and the other half are not opened here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
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
from shoptalk.retrieval.significance import clearly_higher, correlation
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
    dataset = read_dataset(stage.read("dataset"), ["dev"])
    points, dev = _measured(stage, dataset, base, found)
    if movable and 0.0 not in settings.select.weights:
        points, dev = points[1:], dev[1:]
    chosen = choose(points, dev, dataset.groups) if movable else points[-1]
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


def choose(points: Sequence[Point], dev: Sequence[Mapping[str, float]], groups: Mapping[str, str]) -> Point:
    """Of the points that keep what must be kept, the one nearest to the tuned weights, unless the best on dev is clearly better.

    dev: the score of every dev query at each point, in the points' order; for scored pairs, which have one score in all, empty, and the
    best on dev is taken.
    """
    allowed = [i for i, point in enumerate(points) if point.allowed]
    nearest = max(allowed, key=lambda i: points[i].weight)
    best = max(allowed, key=lambda i: (points[i].dev, points[i].weight))
    if best != nearest and (not dev[best] or clearly_higher(dev[best], dev[nearest], groups)):
        return points[best]
    return points[nearest]


def words(points: Sequence[Point], chosen: Point, movable: bool, settings: SelectSettings) -> str:
    """One sentence: what is shipped and why."""
    if not movable:
        return "the tuned model as it is: no other point was asked for, or its weights are not those of the base model moved"
    if chosen.weight == 0:
        return "the base model: no point on the way to the tuned weights that keeps to the limit on general text is worth taking"
    where = "the tuned weights" if chosen.weight == 1 else f"{chosen.weight:.0%} of the way from base to tuned weights"
    said = f"{where}: {chosen.dev_gain:+.3f} on dev"
    if chosen.general_loss is not None:
        said += f", {-chosen.general_loss:+.3f} on general text (limit {-settings.max_general_loss:+.3f})"
    barred = [f"{point.weight:.0%}" for point in points if not point.allowed]
    return said + (f"; left out for what they lose: {', '.join(barred)}" if barred else "")


def _measured(
    stage: StageContext, dataset: Dataset, base: FoundModel, models: dict[float, FoundModel]
) -> tuple[list[Point], list[dict[str, float]]]:
    """The base and every model, by weight, and the dev scores of each by query."""
    settings = stage.settings
    ours = CachedEncoder(base, settings.model, stage.cache)
    part = dataset if dataset.task == "similarity" else dev_part(dataset, ours, settings.train, settings.seed)
    general = retention_set(settings.select)
    before = general.measure(ours, "choose") if general else None
    zero, values = _dev(part, ours)
    points = [Point(0.0, zero, 0.0, *_kept(before, before, settings.select))]
    by_query = [values]
    with task("points between base and tuned", len(models)) as bar:
        for weight in sorted(models):
            own = models[weight]
            # Named as the base: where the name decides the prompts, all must get the same.
            encoder = CachedEncoder(
                FoundModel(settings.model.base, own.path, own.sha256, own.config), settings.model, stage.cache
            )
            score, values = _dev(part, encoder)
            kept = _kept(before, general.measure(encoder, "choose") if general else None, settings.select)
            losses = [loss for loss in (kept[1], kept[3]) if loss is not None]
            allowed = all(loss <= settings.select.max_general_loss for loss in losses)
            points.append(Point(weight, score, score - zero, *kept, allowed))
            by_query.append(values)
            bar.advance()
    return points, by_query


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


def _dev(part: Dataset, encoder: Encoder) -> tuple[float, dict[str, float]]:
    """The dev score, and that of every query; scored pairs have only the one."""
    if part.task == "similarity":
        pairs = part.pairs["dev"]
        return correlation(np.array([pair.score for pair in pairs]), pair_cosines(encoder, pairs)), {}
    qrels = part.qrels["dev"]
    values = of_metric(per_query(qrels, rank(encoder, part, list(qrels), 10), [PRIMARY]), PRIMARY)
    return mean(values), values
