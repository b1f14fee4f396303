from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.readers import Document, reader_for
from shoptalk.models.finding import find_model
from shoptalk.settings import BUILTIN_MODEL

LONG = "The manager approves every travel request within five days of its arrival at the office, without exception. "


@pytest.fixture(scope="module")
def tokenizer_file():
    return find_model(BUILTIN_MODEL).path / "tokenizer.json"


def chunk(text: str, title: str = "Guide", max_tokens: int = 200, tokenizer_file=None):
    return Chunker(tokenizer_file, max_tokens).split(Document(title, text), "a.md")


def test_passages_carry_ids_source_and_heading_path():
    text = f"{LONG * 2}\n# Booking\n\n{LONG * 2}\n## Hotels\n\n{LONG * 2}\n# Refunds\n\n{LONG * 2}\n"
    passages = chunk(text)
    assert [(p.passage_id, p.title) for p in passages] == [
        ("a.md#1", "Guide"),
        ("a.md#2", "Guide > Booking"),
        ("a.md#3", "Guide > Booking > Hotels"),
        ("a.md#4", "Guide > Refunds"),
    ]
    assert {p.source for p in passages} == {"a.md"}
    assert {p.text for p in passages} == {(LONG * 2).strip()}


def test_a_heading_that_is_the_title_is_not_said_twice():
    raw = f"# Using `pip`\n\n{LONG * 2}\n\n## Steps\n\n{LONG * 2}\n".encode()
    passages = Chunker(None, 200).split(reader_for(".md").read(raw, "file"), "a.md")
    assert [p.title for p in passages] == ["Using pip", "Using pip > Steps"]


def test_a_deeper_heading_ends_with_the_next_one_of_its_level_or_above():
    text = "".join(f"{'#' * level} {name}\n\n{LONG * 2}\n" for level, name in [(2, "A"), (4, "B"), (3, "C"), (1, "D")])
    assert [p.title for p in chunk(text)] == ["Guide > A", "Guide > A > B", "Guide > A > C", "Guide > D"]


def test_a_line_in_a_code_block_is_no_heading():
    for fence in ("```", "~~~", "````"):
        (passage,) = chunk(f"# Install\n\n{LONG}\n\n{fence}sh\n# no heading\npip install x\n{fence}\n\n{LONG}")
        assert passage.title == "Guide > Install"
        assert "# no heading" in passage.text


def test_a_fence_inside_a_longer_fence_does_not_end_it():
    (passage,) = chunk(f"{LONG}\n\n````md\n```\n# still code\n```\n````\n\n{LONG}")
    assert "# still code" in passage.text


def test_headings_keep_their_names_and_lose_their_marks():
    for written, name in [("C#", "C#"), ("max_tokens", "max_tokens"), ("`max_tokens` *here* ##", "max_tokens here")]:
        assert chunk(f"# {written}\n\n{LONG}")[0].title == f"Guide > {name}"


def test_no_heading_marks_beside_a_word_or_without_a_name():
    for line in ("#hashtag", "#", "####### seven", "text # no"):
        (passage,) = chunk(f"{line}\n{LONG}")
        assert passage.title == "Guide"


def test_the_start_is_where_the_text_stands_in_the_document():
    text = f"\n\n  {LONG}\n# Größe 退款 😀\n\n\n   {LONG * 30}\n\n- {LONG * 3}\n"
    passages = chunk(text, max_tokens=100)
    assert len(passages) > 4
    for passage in passages:
        assert text[passage.start :].startswith(passage.text)


@pytest.mark.parametrize("max_tokens", [32, 100, 200])
def test_no_passage_is_longer_than_the_limit_in_the_models_own_tokens(tokenizer_file, max_tokens):
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = " ".join(f"Donaudampfschifffahrtsgesellschaft{i} 退款政策 naïve" for i in range(150))
    text = (
        f"# Travel and booking\n\n{LONG * 20}\n\n## Hotels\n\n{words}\n\n```\n{'x = 1; ' * 300}\n```\n\n" + "y" * 3_000
    )
    passages = chunk(text, max_tokens=max_tokens, tokenizer_file=tokenizer_file)
    counts = [len(tokenizer.encode(p.content, add_special_tokens=False).ids) for p in passages]
    assert max(counts) <= max_tokens
    assert max(counts) > 0.7 * max_tokens


def test_a_section_that_fits_is_one_passage(tokenizer_file):
    assert len(chunk(f"# A\n\n{LONG * 3}\n\n{LONG * 3}", max_tokens=200, tokenizer_file=tokenizer_file)) == 1


def test_a_few_words_join_the_next_piece_with_its_heading():
    (passage,) = chunk(f"# Booking\n\nAsk first.\n\n## Hotels\n\n{LONG * 2}")
    assert passage.title == "Guide > Booking"
    assert passage.text == f"Ask first.\nHotels: {(LONG * 2).strip()}"


def test_a_few_words_do_not_join_what_would_be_too_long():
    passages = chunk(f"# Booking\n\nAsk first.\n\n## Hotels\n\n{LONG * 2}", max_tokens=62)
    assert [p.text for p in passages] == ["Ask first.", (LONG * 2).strip()]
    assert passages[1].title == "Guide > Booking > Hotels"


def test_without_a_title_pieces_under_different_top_headings_are_not_joined():
    passages = chunk(f"# A\n\nShort.\n\n# B\n\n{LONG}", title="")
    assert [p.title for p in passages] == ["A", "B"]


@pytest.mark.parametrize("text", ["", " \n\n", "# Only\n\n## Headings\n"])
def test_no_text_gives_no_passages(text):
    assert chunk(text) == []


def test_without_a_tokenizer_four_characters_count_as_a_token(tmp_path):
    passages = chunk(LONG * 20, max_tokens=50, tokenizer_file=tmp_path / "none.json")
    assert all(len(p.text) <= 200 for p in passages)
    assert len(passages) > 5


blocks = st.lists(
    st.sampled_from(["# {}\n\n", "## {}\n\n", "### {}\n", "{} {} {}.\n\n", "- {}\n- {}\n", "> {}\n", "| {} | {} |\n|--|--|\n",
                     "```\n# {}\n{}\n```\n", "{}" * 40 + "\n", "{} " * 60 + "\n\n"]),
    min_size=1, max_size=15,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(blocks=blocks, max_tokens=st.sampled_from([16, 40, 200]))
def test_no_word_is_lost_or_said_twice(blocks, max_tokens):
    numbers = iter(range(100_000))
    words: list[str] = []
    text = ""
    for block in blocks:
        new = [f"w{next(numbers):05d}" for _ in range(block.count("{}"))]
        text += block.format(*new)
        if not block.startswith("#"):
            words += new
    found = "".join(p.text for p in chunk(text, max_tokens=max_tokens))
    assert [word for word in words if found.count(word) != 1] == []
