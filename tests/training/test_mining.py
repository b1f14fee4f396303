"""Hard negatives by hand: what is left out and why, the margin, the mix with BM25, chance, and the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from placed import PlacedEncoder, dataset_with

from shoptalk.errors import SettingsError
from shoptalk.records import Dataset, Passage, Query
from shoptalk.settings import ModelSettings, NegativeSettings, make_settings
from shoptalk.training.false_negatives import CrossEncoderJudge, Doubt, InTurn, Ruling, judge_from
from shoptalk.training.mining import Mined, ceiling_under, mine
from toy import sentence_pairs


def settings_with(**values: object) -> NegativeSettings:
    return NegativeSettings.model_validate({"mine": 5, "bm25_share": 0, **values})


def mined(dataset: Dataset, cosine: dict[str, float], seed: int = 1, **values: object) -> dict[str, list[str]]:
    return mine(dataset, PlacedEncoder(cosine), settings_with(**values), np.random.default_rng(seed)).by_query


# The margin


def test_mined_negatives_score_under_the_margin_and_come_hardest_first() -> None:
    cosine = {"answer": 0.80, "above": 0.90, "close": 0.77, "hard": 0.75, "soft": 0.40}
    dataset = dataset_with({"q1": ["answer"]}, ["soft", "answer", "above", "hard", "close"])
    assert mined(dataset, cosine, margin=0.95) == {"q1": ["hard", "soft"]}
    assert mined(dataset, cosine, margin=1.0) == {"q1": ["close", "hard", "soft"]}


def test_the_margin_counts_from_the_lowest_answer() -> None:
    cosine = {"answer": 0.90, "other answer": 0.50, "hard": 0.80, "soft": 0.40}
    dataset = dataset_with({"q1": ["answer", "other answer"]}, list(cosine))
    assert mined(dataset, cosine) == {"q1": ["soft"]}


def test_the_absolute_margin_is_asked_for_as_well() -> None:
    cosine = {"answer": 0.80, "hard": 0.75, "softer": 0.65, "soft": 0.40}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine))
    assert mined(dataset, cosine, absolute_margin=0.1) == {"q1": ["softer", "soft"]}
    assert mined(dataset, cosine, absolute_margin=0.01) == {"q1": ["hard", "softer", "soft"]}


@pytest.mark.parametrize(
    ("positive", "values", "expected"),
    [
        (0.8, {}, 0.76),
        (-0.4, {}, -0.42),
        (0.0, {}, 0.0),
        (0.8, {"absolute_margin": 0.2}, 0.6),
        (-0.4, {"margin": 0.5}, -0.6),
    ],
)
def test_the_ceiling_is_never_above_the_positive(positive: float, values: dict[str, float], expected: float) -> None:
    assert ceiling_under(positive, settings_with(**values)) == pytest.approx(expected)


def test_every_negative_keeps_its_scores_and_its_rank_of_the_whole_ranking() -> None:
    cosine = {"answer": 0.80, "above": 0.90, "close": 0.77, "hard": 0.75, "soft": 0.40}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine))
    outcome = mine(dataset, PlacedEncoder(cosine), settings_with(), np.random.default_rng(1))
    assert outcome.mined == [
        Mined("q1", "hard", 4, pytest.approx(0.75), pytest.approx(0.80), "base"),
        Mined("q1", "soft", 5, pytest.approx(0.40), pytest.approx(0.80), "base"),
    ]
    assert outcome.left_out == {"judged": 1, "margin": 2}


def test_no_more_are_mined_than_asked_for_and_none_from_below_the_depth() -> None:
    cosine = {"answer": 0.9} | {f"p{i}": 0.8 - i / 100 for i in range(20)}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine))
    assert mined(dataset, cosine, mine=3) == {"q1": ["p0", "p1", "p2"]}
    assert mined(dataset, cosine, mine=15, depth=4) == {"q1": ["p0", "p1", "p2"]}


# What is left out


def left_out(dataset: Dataset, cosine: dict[str, float], **values: object) -> tuple[list[str], dict[str, int]]:
    outcome = mine(dataset, PlacedEncoder(cosine), settings_with(**values), np.random.default_rng(1))
    return outcome.by_query["q1"], dict(outcome.left_out)


def test_judged_passages_are_left_out_whatever_their_grade() -> None:
    cosine = {"answer": 0.9, "low answer": 0.88, "judged, no answer": 0.7, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer", "low answer"]}, list(cosine))
    dataset.qrels["train"]["q1"]["judged, no answer"] = 0
    assert left_out(dataset, cosine) == (["hard"], {"judged": 3})


def test_near_duplicates_of_an_answer_are_left_out() -> None:
    cosine = {"answer": 0.90, "twin": 0.5, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine), {"answer": "c", "twin": "c"})
    assert left_out(dataset, cosine) == (["hard"], {"judged": 1, "near-duplicate": 1})


def test_siblings_of_an_answer_are_left_out_unless_wanted() -> None:
    def at(name: str, source: str, title: str) -> Passage:
        return Passage(name, name, title, source)

    passages = [
        at("answer", "leave.md", "Leave > Sick"),
        at("sibling", "leave.md", "Leave > Sick"),
        at("other section", "leave.md", "Leave > Unpaid"),
        at("other file", "rooms.md", "Leave > Sick"),
    ]
    cosine = {passage.content: 0.9 if passage.passage_id == "answer" else 0.5 for passage in passages}
    dataset = dataset_with({"q1": ["answer"]}, passages)
    assert left_out(dataset, cosine) == (["other section", "other file"], {"judged": 1, "same-section": 1})
    assert left_out(dataset, cosine, same_section=True)[0] == ["sibling", "other section", "other file"]


def test_a_heading_that_became_the_query_does_not_part_siblings() -> None:
    passages = [Passage("answer", "text", "Leave", "a.md"), Passage("sibling", "more", "Leave > q1?", "a.md")]
    cosine = {"Leave text": 0.9, "Leave > q1? more": 0.5}
    assert left_out(dataset_with({"q1": ["answer"]}, passages), cosine) == ([], {"judged": 1, "same-section": 1})


def test_passages_without_a_source_have_no_section() -> None:
    cosine = {"answer": 0.9, "other": 0.5}
    assert left_out(dataset_with({"q1": ["answer"]}, list(cosine)), cosine)[0] == ["other"]


def test_the_text_of_an_answer_is_left_out_wherever_it_stands() -> None:
    passages = [
        Passage("answer", "Send the form"),
        Passage("copy", "send  the\nFORM"),
        Passage("hard", "Keep the form"),
    ]
    cosine = {"Send the form": 0.9, "send  the\nFORM": 0.7, "Keep the form": 0.6}
    assert left_out(dataset_with({"q1": ["answer"]}, passages), cosine) == (["hard"], {"judged": 1, "same-text": 1})


def test_a_labelled_negative_is_not_mined_once_more() -> None:
    cosine = {"answer": 0.9, "labelled": 0.7, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine), negatives={"q1": ("Labelled",)})
    assert left_out(dataset, cosine) == (["hard"], {"judged": 1, "labelled": 1})


def test_answers_of_the_same_question_asked_elsewhere_are_left_out() -> None:
    cosine = {"answer": 0.9, "other answer": 0.7, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer"], "q2": ["other answer"]}, list(cosine))
    dataset = replace(dataset, queries={"q1": Query("q1", "How so?"), "q2": Query("q2", "how  SO?")})
    assert left_out(dataset, cosine)[0] == ["hard"]
    assert mined(dataset, cosine)["q2"] == ["hard"]


def test_one_of_a_cluster_is_enough() -> None:
    cosine = {"answer": 0.9, "one": 0.7, "its copy": 0.69, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine), {"one": "c", "its copy": "c"})
    assert mined(dataset, cosine, mine=2) == {"q1": ["one", "hard"]}


def test_a_query_without_an_answer_mines_nothing() -> None:
    cosine = {"answer": 0.9, "hard": 0.6}
    dataset = dataset_with({"q1": ["answer"], "q2": []}, list(cosine))
    assert mined(dataset, cosine) == {"q1": ["hard"]}


# The mix with BM25

WORDS = {
    "refund policy answer": 0.90,
    "train one": 0.80,
    "train two": 0.79,
    "train three": 0.78,
    "refund policy rules": 0.30,
    "refund office": 0.20,
    "policy of the refund desk and more": 0.88,
}


def worded(n: int = 1) -> Dataset:
    dataset = dataset_with({f"q{i}": ["refund policy answer"] for i in range(n)}, list(WORDS))
    return replace(dataset, queries={q: Query(q, f"refund policy {q}") for q in dataset.queries})


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, ["train one", "train two", "train three"]),
        (1 / 3, ["train one", "train two", "refund policy rules"]),
        (2 / 3, ["train one", "refund policy rules", "refund office"]),
        # BM25 has two under the margin; the model fills up.
        (1.0, ["train one", "refund policy rules", "refund office"]),
    ],
)
def test_a_share_comes_from_bm25(share: float, expected: list[str]) -> None:
    assert mined(worded(), WORDS, mine=3, bm25_share=share) == {"q0": expected}


def test_what_bm25_found_says_so_with_its_rank_there_and_the_models_score() -> None:
    outcome = mine(worded(), PlacedEncoder(WORDS), settings_with(mine=3, bm25_share=1 / 3), np.random.default_rng(1))
    found = {one.passage_id: one for one in outcome.mined}
    assert found["train one"].source == "base"
    rules = found["refund policy rules"]
    assert rules.source == "bm25"
    assert rules.rank in (1, 2)  # it shares two words, as the answer does, and both are three words long
    assert rules.score == pytest.approx(0.30)
    assert rules.positive_score == pytest.approx(0.90)


def test_the_margin_holds_for_bm25_too() -> None:
    found = mined(worded(), WORDS, mine=7, bm25_share=1.0)["q0"]
    assert "policy of the refund desk and more" not in found
    assert len(found) == 5


def test_the_model_falling_short_is_filled_up_from_bm25() -> None:
    cosine = {"refund answer": 0.9, "far": 0.8, "refund one": 0.2, "refund two": 0.1}
    dataset = dataset_with({"q1": ["refund answer"]}, list(cosine))
    dataset = replace(dataset, queries={"q1": Query("q1", "refund")})
    assert mined(dataset, cosine, mine=3, bm25_share=1 / 3, depth=2) == {"q1": ["far", "refund one"]}


def test_where_the_share_is_no_whole_number_chance_decides_by_the_seed() -> None:
    dataset = worded(400)
    outcome = [
        mine(dataset, PlacedEncoder(WORDS), settings_with(mine=1, bm25_share=0.25), np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert outcome[0].mined == outcome[1].mined != outcome[2].mined
    share = np.mean([one.source == "bm25" for one in outcome[0].mined])
    assert 0.18 < share < 0.32


# The judge


class NamedJudge:
    """A judge that takes certain texts for answers, and keeps what it was asked."""

    def __init__(self, *answers: str, reason: str = "judge") -> None:
        self.answers, self.reason = answers, reason
        self.asked: list[Doubt] = []

    def rule(self, doubts: Sequence[Doubt]) -> Ruling:
        self.asked += doubts
        return Ruling([[self.reason if text in self.answers else "" for text in doubt.candidates] for doubt in doubts])


def test_the_judge_has_the_last_word() -> None:
    cosine = {"answer": 0.9, "unlabelled answer": 0.8, "hard": 0.7, "soft": 0.6, "softer": 0.5, "softest": 0.4}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine))
    judge = NamedJudge("unlabelled answer")
    outcome = mine(dataset, PlacedEncoder(cosine), settings_with(mine=1), np.random.default_rng(1), judge)
    assert outcome.by_query == {"q1": ["hard"]}
    assert outcome.left_out["judge"] == 1
    assert judge.asked == [Doubt("q1?", ("answer",), ("unlabelled answer", "hard", "soft"))]


def test_a_later_judge_is_asked_only_what_an_earlier_one_left() -> None:
    first, second = NamedJudge("a"), NamedJudge("c", "a", reason="llm-judge")
    ruling = InTurn((first, second)).rule([Doubt("q", ("p",), ("a", "b", "c")), Doubt("r", ("p",), ("a",))])
    assert ruling.reasons == [["judge", "", "llm-judge"], ["judge"]]
    assert second.asked == [Doubt("q", ("p",), ("b", "c")), Doubt("r", ("p",), ())]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A tiny random cross-encoder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("rerankers") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_cross_encoder_judges_by_its_probability_beside_the_positives(reranker: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = ModelSettings(device="cpu", precision="fp32")
    (question, answer), *others = sentence_pairs()[:9]
    texts = [text for _, text in others]
    probability = 1 / (1 + np.exp(-_logits(CrossEncoder(str(reranker), device="cpu"), question, [answer, *texts])))
    for share in (0.25, 0.5, 0.9):
        judge = CrossEncoderJudge(str(reranker), share, model, tmp_path)
        expected = ["judge" if one >= share * probability[0] else "" for one in probability[1:]]
        assert judge.rule([Doubt(question, (answer,), tuple(texts))]) == Ruling([expected])
    both = CrossEncoderJudge(str(reranker), 0.5, model, tmp_path).rule(
        [Doubt(question, (answer, texts[0]), tuple(texts[1:])), Doubt(question, (answer,), ())]
    )
    assert both.reasons == [["judge" if one >= 0.5 * min(probability[:2]) else "" for one in probability[2:]], []]


def _logits(model: object, question: str, texts: list[str]) -> np.ndarray:
    from torch.nn import Identity

    pairs = [(question, text) for text in texts]
    return np.asarray(model.predict(pairs, activation_fn=Identity()), np.float64)  # type: ignore[attr-defined]


def test_a_judge_must_read_both_texts_together(tiny_bert: Path, tmp_path: Path) -> None:
    judge = CrossEncoderJudge(str(tiny_bert), 0.5, ModelSettings(device="cpu"), tmp_path)
    with pytest.raises(SettingsError, match=r"negatives\.cross_encoder is .* use a reranker"):
        judge.rule([Doubt("q", ("a",), ("b",))])


def test_the_judge_is_the_one_in_the_settings(tmp_path: Path) -> None:
    assert judge_from(make_settings({}), tmp_path) is None
    judge = judge_from(
        make_settings({"negatives": {"cross_encoder": "some/reranker", "cross_encoder_share": 0.3}}), tmp_path
    )
    assert isinstance(judge, CrossEncoderJudge)
    assert (judge.name, judge.share) == ("some/reranker", 0.3)
