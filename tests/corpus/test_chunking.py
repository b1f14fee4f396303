from __future__ import annotations

import itertools

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


def chunk(text: str, title: str = "Guide", max_tokens: int = 200, tokenizer_file=None, overlap: int = 0):
    return Chunker(tokenizer_file, max_tokens, overlap).split(Document(title, text), "a.md")


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


def test_a_heading_may_be_underlined():
    text = f"Booking\n=======\n\n{LONG * 2}\n\nHotels\n------\n\n{LONG * 2}\n\n# Refunds\n\n{LONG * 2}"
    assert [p.title for p in chunk(text)] == ["Guide > Booking", "Guide > Booking > Hotels", "Guide > Refunds"]


@pytest.mark.parametrize(
    "text",
    [
        "{}\n\n---\n\nMore.",
        "- an item\n---\n{}",
        "| a | b |\n---\n{}",
        "```\nTitle\n=====\n```\n{}",
        "two lines\nof a paragraph\n---\n{}",
        "====\n====\n{}",
        "{}\n\n    indented\n    ===\n",
    ],
)
def test_a_rule_is_no_underline(text):
    assert {p.title for p in chunk(text.format(LONG))} == {"Guide"}


def test_a_table_stays_whole_where_it_fits_and_repeats_its_header_where_not():
    rows = [f"| train number {n} | {n} EUR |" for n in range(40)]
    table = "\n".join(["| Kind | Fee |", "| --- | --- |", *rows])
    assert any(table in p.text for p in chunk(f"{LONG * 9}\n\n{table}\n\n{LONG * 9}", max_tokens=400))
    passages = chunk(f"{LONG * 2}\n\n{table}\n\n{LONG * 2}", max_tokens=100)
    parts = [p.text for p in passages if "EUR" in p.text]
    assert len(parts) > 2
    assert all(part.startswith("| Kind | Fee |\n| --- | --- |\n| train number") for part in parts)
    assert [line for part in parts for line in part.split("\n") if "EUR" in line] == rows


def test_a_row_that_is_longer_than_a_passage_is_cut_and_nothing_is_lost():
    words = [f"w{n:04d}" for n in range(200)]
    text = f"| Kind | Fee |\n| --- | --- |\n| short | 1 |\n| {' '.join(words)} | 2 |\n| last | 3 |\n"
    passages = chunk(text, max_tokens=60)
    found = " ".join(p.text for p in passages)
    assert all(found.count(word) == 1 for word in [*words, "short", "last"])
    assert all(len(p.content) // 4 + 1 <= 60 for p in passages)


@pytest.mark.parametrize(
    "block",
    [
        "- one item of a list\n- another item\n\n  with more of it\n- a third item of the list",
        "```python\nfirst = 1\n\nsecond = 2\n\nthird = 3\n```",
        "1. one step to take\n2. another step\n   that goes on\n3. the third step to take",
    ],
)
def test_a_list_or_code_that_fits_is_not_cut(block):
    for before in range(1, 12):
        passages = chunk(f"{'A sentence of some words. ' * before}\n\n{block}\n\n{LONG * 2}", max_tokens=70)
        assert any(block in p.text for p in passages)


def test_passages_overlap_by_whole_sentences_as_far_as_is_set():
    sentences = [f"Sentence number {n} says that the manager approves it." for n in range(40)]
    plain = chunk(" ".join(sentences), max_tokens=100)
    passages = chunk(" ".join(sentences), max_tokens=100, overlap=30)
    assert len(passages) > len(plain)
    for before, after in itertools.pairwise(passages):
        shared = [s for s in sentences if s in before.text and s in after.text]
        assert shared
        assert after.text.startswith(shared[0])
        assert sum(map(len, shared)) // 4 <= 30
        assert " ".join(sentences)[after.start :].startswith(after.text)
    assert all(len(p.content) // 4 + 1 <= 100 for p in passages)


def test_an_overlong_heading_path_is_shortened_and_leaves_room_for_the_text(tokenizer_file):
    names = [f"A heading of many words about travel and its approval number {n}" for n in range(6)]
    text = "".join(f"{'#' * (n + 1)} {name}\n\n" for n, name in enumerate(names)) + LONG * 3
    passages = chunk(text, max_tokens=60, tokenizer_file=tokenizer_file)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for passage in passages:
        assert len(tokenizer.encode(passage.title, add_special_tokens=False).ids) <= 20
        assert len(tokenizer.encode(passage.content, add_special_tokens=False).ids) <= 60
        assert passage.title.startswith("Guide > …")
    assert chunk(text, max_tokens=600)[0].title == " > ".join(["Guide", *names])


def test_a_few_words_at_the_end_join_the_piece_before():
    (passage,) = chunk(f"# Booking\n\n{LONG * 2}\n\n## See also\n\nThe refund policy.")
    assert passage.text.endswith("without exception.\nSee also: The refund policy.")


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
    # The header of a table that is cut is said again in each part; a line of dashes may make any row a header.
    many = {word for line in text.split("\n") if line.startswith("| w") for word in line.split() if word in words}
    assert [word for word in words if found.count(word) != 1 and word not in many] == []
    assert [word for word in many if word not in found] == []
