"""Points on the straight line between two models' weights. Source: Wortsman et al. 2022 (WiSE-FT), https://arxiv.org/abs/2109.01903."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shoptalk.models.finding import FoundModel
from shoptalk.models.loading import load_model, quiet_libraries
from shoptalk.settings import ModelSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def can_interpolate(base: SentenceTransformer, tuned: SentenceTransformer) -> bool:
    """Whether both have the same weights by name and shape: not so for a static model, or one with an adapter on its queries."""
    ours, theirs = base.state_dict(), tuned.state_dict()
    return ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in ours)


def interpolate(
    base: FoundModel, tuned: FoundModel, weights: tuple[float, ...], settings: ModelSettings, folder: Path
) -> dict[float, Path]:
    """Save (1 - w) * base + w * tuned for every w into its own folder; empty when the two models differ in more than values.

    Each folder is what plain `SentenceTransformer(path)` loads, with the tuned model's prompts and maximum length. Computed in fp32 on
    the CPU; holds both models in memory. Raises ModelError.
    """
    ours, model = load_model(base, settings, "cpu"), load_model(tuned, settings, "cpu")
    if not can_interpolate(ours, model):
        return {}
    start = ours.state_dict()
    end = {name: value.clone() for name, value in model.state_dict().items()}
    folders = {}
    for weight in weights:
        between = {
            name: (start[name].lerp(value, weight) if value.is_floating_point() else value)
            for name, value in end.items()
        }
        model.load_state_dict(between)
        folders[weight] = folder / f"{weight:g}"
        with quiet_libraries():
            model.save(str(folders[weight]), create_model_card=False)
    return folders
