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
    base, best = find_model(settings.model.base), find_model(str(candidates / "best"))
    dataset = read_dataset(stage.read("dataset"), ["dev"])
    measuring = _Measuring(stage, dataset, base)
    between = stage.scratch / "between"
    inner = tuple(sorted({weight for weight in settings.select.weights if 0 < weight < 1}))
    asked = bool(inner) or 0.0 in settings.select.weights
    folders = interpolate(base, best, inner, settings.model, between) if asked else {}
    movable = asked and len(folders) == len(inner)
    measured = [measuring.at(0.0, base)]
    with task("points between base and tuned", len(folders) + 1) as bar:
        for weight, folder in [*sorted(folders.items()), (1.0, best.path)]:
            measured.append(measuring.at(weight, find_model(str(folder))))
            bar.advance()
    for _ in range(settings.select.refine if inner and movable else 0):
        if (middle := midway([point for point, _ in measured])) is None:
            break
        folders |= interpolate(base, best, (middle,), settings.model, between)
        measured.append(measuring.at(middle, find_model(str(folders[middle]))))
        measured.sort(key=lambda one: one[0].weight)
    if movable and 0.0 not in settings.select.weights:
        measured = measured[1:]
    points, dev = [point for point, _ in measured], [values for _, values in measured]
    chosen = choose(points, dev, dataset.groups) if movable else points[-1]
    folder = best.path
    if chosen.weight == 0:
        (folder,) = interpolate(base, best, (0.0,), settings.model, between).values()
    elif chosen.weight < 1:
        folder = folders[chosen.weight]
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


class _Measuring:
    """Measures models on dev's part of the haystack and on the choosing half, against the base."""

    def __init__(self, stage: StageContext, dataset: Dataset, base: FoundModel) -> None:
        self._settings, self._cache = stage.settings, stage.cache
        ours = self._encoder(base)
        similarity = dataset.task == "similarity"
        self._part = dataset if similarity else dev_part(dataset, ours, self._settings.train, self._settings.seed)
        self._general = retention_set(self._settings.select)
        self._before = self._general.measure(ours, "choose") if self._general else None
        self._zero, _ = _dev(self._part, ours)

    def at(self, weight: float, model: FoundModel) -> tuple[Point, dict[str, float]]:
        """The point, and its dev scores by query."""
        encoder, own = self._encoder(model), self._settings.select
        score, values = _dev(self._part, encoder)
        kept = _kept(self._before, self._general.measure(encoder, "choose") if self._general else None, own)
        losses = [loss for loss in (kept[1], kept[3]) if loss is not None]
        allowed = weight == 0 or all(loss <= own.max_general_loss for loss in losses)
        return Point(weight, score, score - self._zero, *kept, allowed), values

    def _encoder(self, model: FoundModel) -> CachedEncoder:
        # Named as the base: where the name decides the prompts, all must get the same.
        named = FoundModel(self._settings.model.base, model.path, model.sha256, model.config)
        return CachedEncoder(named, self._settings.model, self._cache)


def midway(points: Sequence[Point]) -> float | None:
    """The weight between the last point that keeps to the limit and the next, which does not; None when all keep to it."""
    last = max(point.weight for point in points if point.allowed)
    beyond = [point.weight for point in points if point.weight > last]
    return (last + min(beyond)) / 2 if beyond else None


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
