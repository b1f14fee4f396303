"""Prompt mismatch: training, evaluation and serving do not put the same text before queries and passages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from shoptalk.diagnosis.evidence import Evidence, Models
from shoptalk.models.finding import FoundModel
from shoptalk.models.prompts import Prompts, prompts_for
from shoptalk.records import Finding

_CONFIG = "config_sentence_transformers.json"


def find(evidence: Evidence) -> Finding | None:
    """Looks at what the base model, the settings and the saved model say; the first pair that differs is the finding."""
    if evidence.models is None:
        return None
    return _between_stages(evidence, evidence.models) or _against_base(evidence, evidence.models)


def _between_stages(evidence: Evidence, models: Models) -> Finding | None:
    training, evaluation = _in_force(models.base, evidence), _in_force(models.tuned, evidence)
    saved = _configured(models.tuned.path)
    serving = Prompts(saved.get("query") or "", saved.get("document") or "", "the saved model")
    if _same(training, evaluation) and _same(training, serving):
        return None
    where = "serving" if _same(training, evaluation) else "evaluation"
    return Finding(
        "prompt-mismatch",
        "high",
        f"trained with {_shown(training)}, evaluated with {_shown(evaluation)}, while the saved model tells whoever serves it to use "
        f"{_shown(serving)}: training and {where} differ in {_roles(training, evaluation, serving)} of 2 roles",
        f"write the prompts of training into the model's {_CONFIG} (shoptalk run --from train does), and serve with encode_query and "
        "encode_document, which apply them",
    )


def _against_base(evidence: Evidence, models: Models) -> Finding | None:
    """What the settings say, against what the base model was made with."""
    own = prompts_for(models.base.family, _configured(models.base.path))
    asked = _in_force(models.base, evidence)
    if _same(own, asked):
        return None
    return Finding(
        "prompt-mismatch",
        "warning",
        f"the settings ask for {_shown(asked)}; the base model comes with {_shown(own)} ({own.origin}): they differ in "
        f"{_roles(own, asked)} of 2 roles",
        "leave model.query_prompt and model.passage_prompt empty (null) unless a comparison on your own queries says otherwise",
    )


def _in_force(found: FoundModel, evidence: Evidence) -> Prompts:
    """As shoptalk loads a model: the settings first, then its own configuration, then the registry."""
    settings = evidence.settings.model
    return prompts_for(found.family, _configured(found.path), settings.query_prompt, settings.passage_prompt)


def _configured(folder: Path) -> Mapping[str, str | None]:
    path = folder / _CONFIG
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content.get("prompts") or {}


def _same(one: Prompts, other: Prompts) -> bool:
    return (one.query, one.passage) == (other.query, other.passage)


def _shown(prompts: Prompts) -> str:
    if not prompts.query and not prompts.passage:
        return "no prompts"
    return f"{prompts.query!r} before queries and {prompts.passage!r} before passages"


def _roles(*all_prompts: Prompts) -> int:
    """In how many of the roles, query and passage, not all texts are the same."""
    return sum(len({texts[role] for texts in ((p.query, p.passage) for p in all_prompts)}) > 1 for role in (0, 1))
