from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoptalk.errors import ModelError, SettingsError
from shoptalk.models.encoder import load_encoder
from shoptalk.models.finding import find_model
from shoptalk.progress import Task, reporting_to
from shoptalk.records import Example
from shoptalk.settings import BUILTIN_MODEL, ModelSettings
from shoptalk.training import teacher
from shoptalk.training.teacher import as_cosines, is_cross_encoder, score_examples, teacher_scores
from toy import sentence_pairs, toy_settings

FP32 = ModelSettings(device="cpu", precision="fp32")
PAIRS = [
    *sentence_pairs()[:6],
    ("hotel", "on the lunch manager " * 20),
    ("", "price"),
    ("what is the travel policy of the office for a member", ""),
    sentence_pairs()[2],
]


class Spy:
    """A Reporter of the scoring alone: how much there was, how much was done before, how much is done now."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.begun: list[tuple[int | None, int]] = []
        self.scored = 0
        self.most = interrupt_after

    def stage(self, name: str, what: str) -> None: ...

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        if label != "scoring with the teacher":
            return Spy()
        self.begun.append((total, done))
        return self

    def finish(self, task: Task) -> None: ...
    def note(self, text: str) -> None: ...

    def advance(self, n: int = 1) -> None:
        self.scored += n
        if self.most is not None and self.scored > self.most:
            raise KeyboardInterrupt


def build_cross_encoder(folder: Path, parts: Path, num_labels: int = 1, scale: float = 100.0) -> Path:
    """A random cross-encoder on a tiny BERT, whose logits lie far apart."""
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(parts, num_labels=num_labels)
    with torch.no_grad():
        for weight in model.bert.encoder.parameters():
            weight *= 10  # as it is, a random model gives every pair nearly the same
        model.classifier.weight *= scale
    model.save_pretrained(folder / "parts")
    AutoTokenizer.from_pretrained(parts).save_pretrained(folder / "parts")
    CrossEncoder(str(folder / "parts"), device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def cross_encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cross_encoder(tmp_path_factory.mktemp("cross"), tiny_bert)


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model with changes in its config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text(encoding="utf-8")) | changes
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return to


# A cross-encoder


def test_a_cross_encoder_gives_its_own_logits_in_the_order_of_the_pairs(cross_encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    wanted = CrossEncoder(str(cross_encoder), device="cpu").predict(
        PAIRS, batch_size=1, activation_fn=torch.nn.Identity()
    )
    scores = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path)
    assert (scores.shape, scores.dtype) == ((len(PAIRS),), np.float32)
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert np.ptp(scores) > 1  # no sigmoid, though the model's configuration asks for one


def test_who_asks_and_who_answers_is_not_mixed_up(cross_encoder: Path, tmp_path: Path) -> None:
    turned = [(passage, query) for query, passage in PAIRS]
    there, back = (teacher_scores(str(cross_encoder), pairs, FP32, tmp_path) for pairs in (PAIRS, turned))
    assert not np.allclose(there, back, atol=1e-3)


def test_small_batches_change_nothing(cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "whole")
    monkeypatch.setattr(teacher, "_TOKENS_PER_BATCH", 30)
    monkeypatch.setattr(teacher, "_PAIRS_PER_SEGMENT", 4)
    assert teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "parts") == pytest.approx(whole, abs=1e-5)


def test_every_different_pair_is_scored_once_and_only_once_for_all_runs(cross_encoder: Path, tmp_path: Path) -> None:
    spy = Spy()
    with reporting_to(spy):
        first = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path)
        assert (spy.begun, spy.scored) == ([(9, 0)], 9)
        again = teacher_scores(str(cross_encoder), PAIRS[::-1], FP32, tmp_path)
        assert len(spy.begun) == 1
        teacher_scores(str(cross_encoder), [*PAIRS, ("train", "form")], FP32, tmp_path)
    assert np.array_equal(first, again[::-1])
    assert (spy.begun[1:], spy.scored) == ([(10, 9)], 10)


def test_a_run_that_was_killed_goes_on_where_it_was(
    cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "_PAIRS_PER_SEGMENT", 4)
    undisturbed = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt), reporting_to(Spy(interrupt_after=4)):
        teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "killed")
    with reporting_to(goes_on := Spy()):
        scores = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "killed")
    assert (goes_on.begun, goes_on.scored) == ([(9, 4)], 5)
    assert np.array_equal(scores, undisturbed)


def test_a_damaged_file_is_computed_again(cross_encoder: Path, tmp_path: Path) -> None:
    first = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with reporting_to(spy := Spy()):
        assert np.array_equal(teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path), first)
    assert spy.scored == 9


def test_another_teacher_does_not_find_the_scores_of_the_first(
    cross_encoder: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    other = build_cross_encoder(tmp_path, tiny_bert, scale=50.0)
    first = teacher_scores(str(cross_encoder), PAIRS, FP32, tmp_path / "cache")
    with reporting_to(spy := Spy()):
        second = teacher_scores(str(other), PAIRS, FP32, tmp_path / "cache")
    assert spy.scored == 9
    assert np.abs(second - first).max() > 0.1


def test_no_pairs_are_no_scores(cross_encoder: Path, tiny_bert: Path, tmp_path: Path) -> None:
    for name in (cross_encoder, tiny_bert):
        assert teacher_scores(str(name), [], FP32, tmp_path).shape == (0,)


# A bi-encoder


def test_a_bi_encoder_gives_cosines_with_its_own_prompts_and_not_the_students(tiny_bert: Path, tmp_path: Path) -> None:
    prompted = FP32.model_copy(update={"query_prompt": "travel: ", "passage_prompt": "report: "})
    load_encoder(str(tiny_bert), prompted).model.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    for name, own in ((tmp_path / "prompted", prompted), (tiny_bert, FP32)):
        encoder = load_encoder(str(tiny_bert), own)
        queries, passages = (
            encoder.encode_queries([q for q, _ in PAIRS]),
            encoder.encode_passages([p for _, p in PAIRS]),
        )
        scores = teacher_scores(str(name), PAIRS, prompted, tmp_path / "cache")
        assert scores.dtype == np.float32
        assert scores == pytest.approx(np.sum(queries * passages, axis=1), abs=1e-5)


def test_a_bi_encoders_vectors_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    first = teacher_scores(str(tiny_bert), PAIRS, FP32, tmp_path)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    assert np.array_equal(teacher_scores(str(tiny_bert), PAIRS, FP32, tmp_path), first)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")} == kept != {}


def test_the_configuration_tells_a_cross_encoder_from_a_bi_encoder(cross_encoder: Path, tiny_bert: Path) -> None:
    assert is_cross_encoder(find_model(str(cross_encoder)))
    assert is_cross_encoder(find_model(str(cross_encoder.parent / "parts")))
    assert not is_cross_encoder(find_model(str(tiny_bert)))
    assert not is_cross_encoder(find_model(BUILTIN_MODEL))


# Examples


def test_examples_are_scored_positive_first(cross_encoder: Path, tmp_path: Path) -> None:
    pairs = sentence_pairs()
    examples = [
        Example(f"q{i}", f"p{i}", pairs[i][0], pairs[i][1], (pairs[i + 1][1], pairs[i + 2][1])) for i in range(4)
    ]
    settings = toy_settings(tmp_path, train={"teacher": str(cross_encoder)})
    scores = score_examples(examples, settings, tmp_path)
    assert scores.shape == (4, 3)
    for i in range(4):
        for k in range(3):
            alone = teacher_scores(str(cross_encoder), [(pairs[i][0], pairs[i + k][1])], FP32, tmp_path / "alone")
            assert scores[i, k] == pytest.approx(alone[0], abs=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 0.8), (30.0, -500.0)])
def test_scores_of_any_scale_become_the_same_cosines(scale: float, shift: float) -> None:
    scores = np.array([[9.0, -3.0, 2.0], [4.0, 4.0, -8.0]])
    cosines = as_cosines(scale * scores + shift)
    assert cosines == pytest.approx(as_cosines(scores))
    assert cosines.mean() == pytest.approx(0, abs=1e-12)
    assert cosines.std() == pytest.approx(0.25)
    margins, given = cosines[:, :1] - cosines[:, 1:], scores[:, :1] - scores[:, 1:]
    assert margins / margins[0, 0] == pytest.approx(given / given[0, 0])


# What goes wrong


def test_a_teacher_for_whom_all_is_the_same_teaches_nothing() -> None:
    with pytest.raises(SettingsError, match=r"train\.teacher gives all 6 training pairs the same score, 0\.5; .*auto"):
        as_cosines(np.full((3, 2), 0.5))


def test_a_classifier_is_no_teacher(tiny_bert: Path, tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path, tiny_bert, num_labels=3)
    with pytest.raises(ModelError, match=r"gives 3 values for a pair \(it is a classifier\); .*reranker"):
        teacher_scores(str(folder), PAIRS, FP32, tmp_path / "cache")


def test_scores_that_are_no_numbers_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path, tiny_bert, scale=float("nan"))
    with pytest.raises(ModelError, match=r"9 of its 9 scores are not finite numbers; try model\.precision=fp32"):
        teacher_scores(str(folder), PAIRS, FP32, tmp_path / "cache")


def test_a_pickle_and_custom_code_are_refused(cross_encoder: Path, tmp_path: Path) -> None:
    pickled = edited(cross_encoder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only as pickle"):
        teacher_scores(str(pickled), PAIRS, FP32, tmp_path / "cache")
    coded = edited(cross_encoder, tmp_path / "coded", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ModelError, match="custom code"):
        teacher_scores(str(coded), PAIRS, FP32, tmp_path / "cache")


def test_weights_that_cannot_be_loaded_are_named(cross_encoder: Path, tmp_path: Path) -> None:
    broken = edited(cross_encoder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="broken: cannot be loaded"):
        teacher_scores(str(broken), PAIRS, FP32, tmp_path / "cache")
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        teacher_scores(str(tmp_path / "nowhere"), PAIRS, FP32, tmp_path / "cache")
