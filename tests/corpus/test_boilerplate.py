from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shoptalk.corpus.boilerplate import find_repeated, without_repeated
from shoptalk.corpus.language import language_of, language_of_passage

FOOTER = "Questions? Ask in the channel of the people team."


def pages(n: int, folder: str = "site") -> list[tuple[str, str]]:
    return [
        (f"{folder}/{i}.md", f"# Page {i}\n\nText of page number {i} here.\n\n{FOOTER}\n\n- Health care\n")
        for i in range(n)
    ]


def test_a_block_of_many_files_is_taken_out_and_listed():
    texts = pages(10)
    found = find_repeated(texts, 0.3)
    assert {(entry.text, entry.folder, entry.files) for entries in found.values() for entry in entries} == {
        (FOOTER, "", 10),
        (FOOTER, "site", 10),
    }
    cleaned = without_repeated(*texts[3], found)
    assert FOOTER not in cleaned.text
    assert "- Health care" in cleaned.text
    assert "# Page 3\n\nText of page number 3 here." in cleaned.text


def test_a_block_of_few_files_stays():
    others = [(f"site/o{i}.md", f"Other text number {i} is here.\n") for i in range(30)]
    assert find_repeated([*pages(10), *others], 0.3) == {}
    assert find_repeated(pages(7), 0.3) == {}


def test_headings_code_and_tables_stay():
    shared = "## How do I get these benefits?\n\n```\nrun this one command now\n```\n\n| a long header | of a table |\n"
    assert find_repeated([(f"{i}.md", shared) for i in range(20)], 0.3) == {}


def test_a_place_in_the_cleaned_text_is_known_in_the_one_that_was_read():
    text = f"{FOOTER}\n\nFirst text of the page.\n\n{FOOTER}\n\nLast text of the page.\n"
    found = find_repeated([(f"{i}.md", text + str(i)) for i in range(10)], 0.3)
    found[""] = [entry for entry in found[""] if entry.text == FOOTER]
    cleaned = without_repeated("0.md", text, found)
    assert FOOTER not in cleaned.text
    for part in ("First text", "Last text"):
        assert cleaned.origin(cleaned.text.index(part)) == text.index(part)


@settings(max_examples=50, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from([FOOTER, "", "A line of the page.", "- " + FOOTER, "# H", "```", "| a | b |"]), max_size=30
    )
)
def test_every_kept_character_is_where_it_says(lines):
    text = "\n".join(lines)
    found = find_repeated([(f"{i}.md", FOOTER) for i in range(10)], 0.3)
    cleaned = without_repeated("0.md", text, found)
    assert all(text[cleaned.origin(n)] == char for n, char in enumerate(cleaned.text))


def test_languages_of_documents_and_passages():
    english = (
        "The manager approves every travel request within five days of its arrival at the office, without exception. "
    )
    german = (
        "Die Leitung genehmigt jeden Antrag auf eine Dienstreise innerhalb von fünf Tagen nach seinem Eingang im Büro. "
    )
    assert language_of(english) == "en"
    assert language_of(german) == "de"
    assert language_of("払い戻しは購入後三十日以内に申請してください。") == "ja"
    assert language_of("Fee") == language_of("| 1 | 2 |\n" * 50) == language_of("```\n" + english + "```") == ""
    assert language_of_passage(german * 2, "en") == "de"
    assert language_of_passage("Kosten: 5", "en") == "en"
