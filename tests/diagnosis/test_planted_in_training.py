"""Real runs of a tiny model with a defect planted in their data, settings or weights: each is found, and the clean run has none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoptalk.diagnosis.causes import first_cause
from shoptalk.diagnosis.collapse import spread
from shoptalk.diagnosis.diagnosing import FINDINGS, finder, gather, look
from shoptalk.diagnosis.evidence import Evidence, Models
from shoptalk.diagnosis.weights import Moved, moved
from shoptalk.models.encoder import TorchEncoder, load_encoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Example, Finding, Passage, Qrels, Query
from shoptalk.settings import ModelSettings, Settings
from shoptalk.workspace import StageContext
from toy import sentence_pairs, toy_retrieval, toy_settings

CPU = ModelSettings(device="cpu", precision="fp32")
Run = Callable[..., StageContext]


def found(name: str, evidence: Evidence) -> Finding:
    finding = finder(name)(evidence)
    assert finding is not None
    assert finding.name == name
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.advice
    return finding


def loaded(folder: Path) -> TorchEncoder:
    return load_encoder(str(folder), CPU)


def in_models(evidence: Evidence, tuned: Path, candidate: Path | None = None, **parts: Any) -> Evidence:
    """The evidence with another model in the place of the tuned one."""
    assert evidence.models is not None
    models = Models(evidence.models.base, find_model(str(tuned)), candidate or tuned)
    return replace(evidence, tuned=loaded(tuned), models=models, **parts)


# A clean run


def test_a_clean_run_has_no_finding_of_high_severity(clean: Evidence) -> None:
    assert [finding for finding in look(clean) if finding.severity == "high"] == []


EXPECTED = {"small-test"}  # 20 test queries


@pytest.mark.parametrize("name", sorted(FINDINGS.keys() - EXPECTED - {"one-sided-bias"}))
def test_a_clean_run_has_none_of(name: str, clean: Evidence) -> None:
    assert finder(name)(clean) is None


def test_findings_come_most_severe_first(clean: Evidence) -> None:
    evidence = replace(clean, audit={"passages": 10, "passages_in_near_duplicate_clusters": 9}, tuned=clean.base)
    order = [finding.severity for finding in look(evidence)]
    assert order == sorted(order, key=["high", "warning", "info"].index)
    assert order[0] == "high"
    assert len(order) > 1


# Unchanged, and its three causes


def test_a_learning_rate_that_is_too_low_is_told_by_weights_that_moved_a_little(
    run_to_diagnosis: Run, tmp_path: Path, tiny_bert: Path
) -> None:
    settings = toy_settings(tiny_bert, train={"epochs": 1, "learning_rate": 1e-6})
    finding = found("unchanged-embeddings", gather(run_to_diagnosis(tmp_path, toy_retrieval(), settings)))
    assert finding.severity == "high"
    assert (
        "the learning rate was too low or there were too few steps (learning rate 1e-06, 6 steps)" in finding.evidence
    )
    assert "train.learning_rate" in finding.advice


def test_the_base_in_the_place_of_the_trained_model_is_the_wrong_checkpoint(clean: Evidence, tiny_bert: Path) -> None:
    assert clean.models is not None
    finding = found("unchanged-embeddings", in_models(clean, tiny_bert, clean.models.candidate))
    assert finding.severity == "high"
    assert "the base's, bit for bit, while training left weights that are 0." in finding.evidence
    assert "wrong checkpoint" in finding.evidence


def test_adapters_that_lie_beside_the_base_were_not_applied(clean: Evidence, tiny_bert: Path, tmp_path: Path) -> None:
    from shoptalk.training.lora import add_lora, save_lora

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "unmerged"))
    model = loaded(tiny_bert).model
    add_lora(model, rank=2)
    save_lora(model, folder)
    finding = found("unchanged-embeddings", in_models(clean, folder, training={"method": "lora", "steps_done": 60}))
    assert "the adapter (train.method: lora) was not applied" in finding.evidence
    assert "none would change a vector" in finding.evidence  # the second factor of LoRA begins at zero


def test_equal_weights_without_any_sign_of_training_are_the_base(clean: Evidence, tiny_bert: Path) -> None:
    finding = found("unchanged-embeddings", in_models(clean, tiny_bert, training={"method": "full", "steps_done": 0}))
    assert "no step was taken (training.json says 0 steps)" in finding.evidence


def test_a_base_that_select_chose_is_no_accident(clean: Evidence, tiny_bert: Path) -> None:
    card = {"weight": 0.0, "words": "the base model: no point was within the limit on general text"}
    finding = found("unchanged-embeddings", in_models(clean, tiny_bert, card=card))
    assert finding.severity == "warning"
    assert "no point was within the limit" in finding.evidence
    assert "select.max_general_loss" in finding.advice


def test_weights_are_compared_by_name_and_value_whatever_their_precision(tiny_bert: Path, tmp_path: Path) -> None:
    same = moved(tiny_bert, tiny_bert)
    assert (same.is_equal, same.relative, same.own) == (True, 0.0, {})
    folder = tmp_path / "moved"
    model = loaded(tiny_bert).model
    with _no_grad():
        next(model.parameters()).mul_(1.5)
    model.save(str(folder))
    other = moved(tiny_bert, folder)
    assert _renamed(tiny_bert, tmp_path / "with-head").shared == same.shared
    assert (other.shared - other.same, other.is_equal) == (1, False)
    assert 0 < other.relative < 0.5


def _renamed(model: Path, folder: Path) -> Moved:
    """The same weights held against themselves saved under a head, in half precision."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    tensors = load_file(model / "model.safetensors")
    save_file({f"bert.{name}": tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return moved(folder, model)


# Memorised


def shuffled(n: int = 40) -> Dataset:
    """Training queries whose answers are another query's: nothing to learn for dev, only to know by heart."""
    toy = toy_retrieval(n_train=n)
    names = list(toy.qrels["train"])
    wrong = [names[(7 * i + 3) % n] for i in range(n)]
    train: Qrels = {q: {f"p{other.removeprefix('q')}": 1} for q, other in zip(names, wrong, strict=True)}
    return replace(toy, qrels={**toy.qrels, "train": train})


def test_pairs_known_by_heart_show_in_the_gap_between_train_and_dev(
    run_to_diagnosis: Run, tmp_path: Path, taught_bert: Path
) -> None:
    settings = toy_settings(taught_bert, train={"epochs": 40, "evaluations": 1, "patience": 100, "learning_rate": 3e-3})
    evidence = gather(run_to_diagnosis(tmp_path, shuffled(), settings))
    finding = found("memorised", evidence)
    assert "nDCG@10 of training queries went from" in finding.evidence
    (train_before, train), (dev_before, dev) = evidence.scores["train"], evidence.scores["dev"]
    assert train > train_before + 0.2
    assert dev <= dev_before


def test_no_gap_counts_while_dev_rises(clean: Evidence) -> None:
    (_, train), (dev_before, dev) = clean.scores["train"], clean.scores["dev"]
    assert dev > dev_before
    assert train > 0.5


# Worse than base, and why


def test_wrong_labels_make_a_good_model_worse_and_are_named(
    run_to_diagnosis: Run, tmp_path: Path, taught_bert: Path
) -> None:
    settings = toy_settings(taught_bert, train={"epochs": 8, "patience": 100})
    finding = found("worse-than-base", gather(run_to_diagnosis(tmp_path, shuffled(92), settings)))
    assert finding.severity == "high"
    assert "the likely cause is wrong positives: about" in finding.evidence
    assert "drop those that do not answer" in finding.advice


@pytest.fixture
def fell(clean: Evidence, taught_bert: Path) -> Evidence:
    """Evidence of a fall from a base that knows the task, with sound data."""
    delta = {"ndcg@10": {"value": -0.1, "ci95": [-0.15, -0.05], "p": 0.001}}
    return replace(clean, base=loaded(taught_bert), comparison={"metric": "ndcg@10", "delta": delta})


def test_a_fall_without_a_cause_says_so(fell: Evidence) -> None:
    finding = found("worse-than-base", fell)
    assert finding.severity == "high"
    assert "none shows" in finding.evidence


def with_duplicates(evidence: Evidence) -> Evidence:
    return replace(evidence, audit={"passages": 100, "passages_in_near_duplicate_clusters": 40})


def with_contradictions(evidence: Evidence) -> Evidence:
    """Every third question is asked again with another answer."""
    texts = {e.query_id: e for e in evidence.examples}
    names = list(texts)
    again = [
        replace(texts[names[i - 1]], query_id=f"again{i}", anchor=texts[names[i]].anchor.upper() + "?")
        for i in range(1, len(names), 3)
    ]
    return replace(evidence, examples=[*evidence.examples, *again])


def with_denials(evidence: Evidence) -> Evidence:
    """The answer is a negative of its own question, written a little differently."""
    denied = [replace(example, negatives=(f"{example.positive.title()}!",)) for example in evidence.examples]
    return replace(evidence, examples=denied)


def with_wrong_positives(evidence: Evidence) -> Evidence:
    moved_on = [*evidence.examples[31:], *evidence.examples[:31]]
    swapped = [
        replace(one, positive=other.positive, positive_id=other.positive_id)
        for one, other in zip(evidence.examples, moved_on, strict=True)
    ]
    return replace(evidence, examples=[*swapped[:60], *evidence.examples[60:]])


def with_other_style(evidence: Evidence) -> Evidence:
    rows = [{"query_id": f"t{i}", "text": f"{asked} cost"} for i, (asked, _) in enumerate(sentence_pairs())]
    keywords = [{**row, "text": str(row["text"]).removeprefix("what is the ")} for row in rows]
    return replace(evidence, per_query=keywords)


def with_false_negatives(evidence: Evidence) -> Evidence:
    """The mined negative is a near-duplicate of the answer."""
    known, clusters = dict(evidence.dataset.passages), dict(evidence.dataset.clusters)
    for e in evidence.examples:
        name = f"{e.positive_id}-again"
        known[name], clusters[name] = Passage(name, f"{e.positive} in the city"), clusters[e.positive_id]
    mined = [replace(e, negatives=(f"{e.positive} in the city",)) for e in evidence.examples]
    return replace(evidence, dataset=replace(evidence.dataset, passages=known, clusters=clusters), examples=mined)


def test_negatives_that_people_named_are_not_doubted(fell: Evidence) -> None:
    evidence = with_false_negatives(fell)
    named = {e.query_id: e.negatives for e in evidence.examples}
    assert first_cause(replace(evidence, dataset=replace(evidence.dataset, negatives=named))) is None


def test_minings_own_audit_is_believed(fell: Evidence) -> None:
    row = {"margin": 0.95, "taken": 60, "mined": 400, "rate": 0.6, "ci95": [0.5, 0.69], "share_of_mined": 0.15}
    tested = {"trials": 100, "by_margin": [{**row, "margin": None}, row]}
    mining = {"settings": {"margin": 0.95}, "mined": 400, "false_negatives": {"other_answers": tested}}
    cause = first_cause(replace(fell, mining=mining))
    assert cause is not None
    assert cause.name == "false negatives"
    assert "held back 100 times, mining would have taken it as a negative 60 times (60%)" in cause.shown
    assert first_cause(replace(fell, mining={**mining, "mined": 0})) is None


CAUSES = {
    "duplicates": (with_duplicates, "40 of 100 passages"),
    "contradictory positives": (with_contradictions, "contradict another label"),
    "wrong positives": (with_wrong_positives, "of the training positives look wrong"),
    "off-style queries": (with_other_style, "length in words 5 in training, 3 in the test"),
    "false negatives": (with_false_negatives, "near-duplicate of it"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_every_cause_is_named_with_its_figures(name: str, fell: Evidence) -> None:
    plant, words = CAUSES[name]
    cause = first_cause(plant(fell))
    assert cause is not None
    assert cause.name == name
    assert words in cause.shown
    assert cause.advice


def test_an_answer_that_is_also_a_negative_contradicts(fell: Evidence) -> None:
    cause = first_cause(with_denials(fell))
    assert cause is not None
    assert cause.name == "contradictory positives"


def test_the_first_cause_that_holds_is_the_one_that_is_named(fell: Evidence) -> None:
    evidence = fell
    for name in reversed(CAUSES):
        evidence = CAUSES[name][0](evidence)
        cause = first_cause(evidence)
        assert cause is not None
        assert cause.name == name


# Leakage


def leaky(dataset: Dataset, n: int) -> Dataset:
    """The first n test queries are trained on, under other names; their answers stand in the corpus a second time."""
    asked, judged = list(dataset.qrels["test"])[:n], dataset.qrels["test"]
    copies = {f"{p}-copy": replace(dataset.passages[p], passage_id=f"{p}-copy") for q in asked for p in judged[q]}
    seen = {f"{q}-seen": Query(f"{q}-seen", dataset.queries[q].text + "?") for q in asked}
    train: Qrels = {f"{q}-seen": {f"{p}-copy": 1 for p in judged[q]} for q in asked}
    return replace(
        dataset,
        passages={**dataset.passages, **copies},
        queries={**dataset.queries, **seen},
        qrels={**dataset.qrels, "train": {**dataset.qrels["train"], **train}},
        clusters={**dataset.clusters, **{name: name for name in copies}},  # the split's audit saw nothing
        groups={**dataset.groups, **{name: name for name in seen}},
    )


def test_test_queries_that_were_trained_on_are_leakage(run_to_diagnosis: Run, tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, train={"epochs": 1})
    stage = run_to_diagnosis(tmp_path, leaky(toy_retrieval(), 5), settings)
    (tmp_path / "dataset" / "qrels" / "test.tsv").unlink()  # found without a look at the test split
    finding = found("leakage", gather(stage))
    assert finding.severity == "high"
    assert "5 of 20 test queries (25.0%) were seen in training: 5 ask the same as a training query" in finding.evidence
    assert "are answered by a training positive or a near-duplicate" in finding.evidence


def test_an_answer_that_was_a_training_positive_is_leakage_without_its_query(clean: Evidence) -> None:
    answer = sorted(next(iter(clean.test_answers.values())))[0]
    seen = Example("q-new", answer, "tell me more", clean.dataset.passages[answer].content)
    finding = found("leakage", replace(clean, examples=[*clean.examples, seen]))
    assert "1 of 20 test queries (5.0%)" in finding.evidence
    assert "0 ask the same as a training query, 1 are answered" in finding.evidence


def test_a_little_leakage_is_a_warning(clean: Evidence) -> None:
    row = clean.per_query[0]
    rows = [
        *clean.per_query,
        *({**row, "query_id": f"more{i}", "text": f"more of {i} {i + 1} {i + 2}"} for i in range(99)),
    ]
    seen = Example("q-new", "p0", str(row["text"]), "elsewhere")
    finding = found("leakage", replace(clean, per_query=rows, examples=[*clean.examples, seen], rankings={}))
    assert finding.severity == "warning"


# Collapse


def test_one_large_bias_collapses_all_vectors(clean: Evidence, taught_bert: Path, tmp_path: Path) -> None:
    model = loaded(taught_bert).model
    with _no_grad():
        bias = next(p for name, p in model.named_parameters() if name.endswith("layer.1.output.LayerNorm.bias"))
        bias[3] += 50.0
    model.save(str(tmp_path / "collapsed"))
    finding = found("collapse", replace(clean, base=loaded(taught_bert), tuned=loaded(tmp_path / "collapsed")))
    assert finding.severity == "high"
    assert "two random passages" in finding.evidence
    assert "two random queries" in finding.evidence


def test_spread_is_what_its_definition_says() -> None:
    import numpy as np

    axes = np.eye(8, dtype=np.float32)
    assert spread(axes).cosine == pytest.approx(0)
    assert spread(np.concatenate([axes, -axes])).rank == pytest.approx(8)
    assert spread(np.repeat(axes[:1], 9, axis=0)).cosine == pytest.approx(1)
    assert spread(np.repeat(axes[:1], 9, axis=0)).rank == 1
    vectors = np.random.default_rng(3).normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (vectors @ vectors.T)[~np.eye(40, dtype=bool)]
    assert spread(vectors).cosine == pytest.approx(float(pairs.mean()), abs=1e-6)


# Prompts


def with_prompts(folder: Path, model: Path, prompts: Mapping[str, str]) -> Path:
    """A copy of a model whose configuration has these prompts."""
    copy = Path(shutil.copytree(model, folder))
    path = copy / "config_sentence_transformers.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"prompts": dict(prompts)}), encoding="utf-8")
    return copy


def settings_with(evidence: Evidence, **model: Any) -> Settings:
    return evidence.settings.model_copy(update={"model": evidence.settings.model.model_copy(update=model)})


def test_a_saved_model_that_lost_its_prompts_is_a_mismatch(clean: Evidence, taught_bert: Path, tmp_path: Path) -> None:
    base = with_prompts(tmp_path / "base", taught_bert, {"query": "query: ", "document": "passage: "})
    bare = with_prompts(tmp_path / "bare", taught_bert, {"query": "", "document": ""})
    evidence = replace(clean, models=Models(find_model(str(base)), find_model(str(bare)), bare))
    finding = found("prompt-mismatch", evidence)
    assert finding.severity == "high"
    assert "trained with 'query: ' before queries and 'passage: ' before passages" in finding.evidence
    assert "to use no prompts" in finding.evidence
    assert "in 2 of 2 roles" in finding.evidence
    kept = replace(clean, models=Models(find_model(str(base)), find_model(str(base)), base))
    assert finder("prompt-mismatch")(kept) is None


def test_prompts_of_the_settings_that_were_not_saved_are_missed_in_serving(clean: Evidence) -> None:
    finding = found("prompt-mismatch", replace(clean, settings=settings_with(clean, query_prompt="ask: ")))
    assert "training and serving differ in 1 of 2 roles" in finding.evidence


def test_prompts_against_the_base_models_own_are_a_warning(clean: Evidence, taught_bert: Path, tmp_path: Path) -> None:
    base = with_prompts(tmp_path / "base", taught_bert, {"query": "query: ", "document": "passage: "})
    tuned = with_prompts(tmp_path / "tuned", taught_bert, {"query": "", "document": ""})
    settings = settings_with(clean, query_prompt="", passage_prompt="")
    models = Models(find_model(str(base)), find_model(str(tuned)), tuned)
    finding = found("prompt-mismatch", replace(clean, models=models, settings=settings))
    assert finding.severity == "warning"
    assert "the base model comes with 'query: '" in finding.evidence


def test_a_real_run_of_a_model_with_prompts_saves_them(
    run_to_diagnosis: Run, tmp_path: Path, taught_bert: Path
) -> None:
    base = with_prompts(tmp_path / "base", taught_bert, {"query": "what ", "document": "on "})
    stage = run_to_diagnosis(tmp_path / "run", toy_retrieval(), toy_settings(base, train={"epochs": 1}))
    assert finder("prompt-mismatch")(gather(stage)) is None


def _no_grad() -> Any:
    import torch

    return torch.no_grad()
