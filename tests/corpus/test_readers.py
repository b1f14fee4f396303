from __future__ import annotations

import contextlib
import random
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TEXT, every_sample

from shoptalk.corpus.readers import READERS, Document, Unreadable, decode, reader_for


def markdown(text: str | bytes, name: str = "file") -> Document:
    return reader_for(".md").read(text if isinstance(text, bytes) else text.encode(), name)


def html(text: str | bytes, name: str = "file") -> Document:
    return reader_for(".html").read(text if isinstance(text, bytes) else text.encode(), name)


def document_or_none(suffix: str, raw: bytes) -> Document | None:
    """What the reader makes of the bytes; None where it says that they are unreadable. Nothing else may be raised."""
    with contextlib.suppress(Unreadable):
        return reader_for(suffix).read(raw, "name")
    return None


SAMPLES = every_sample()


@pytest.mark.parametrize("suffix", READERS)
def test_every_reader_of_the_table_reads_its_sample(suffix):
    reader = reader_for(suffix)
    assert reader is import_module(READERS[suffix])
    document = reader.read(SAMPLES[suffix], "file")
    assert isinstance(document, Document)
    assert document.title
    assert TEXT in document.text
    assert list(document.page_starts) == sorted(document.page_starts)
    assert all(0 <= start <= len(document.text) for start in document.page_starts)


def test_there_is_a_sample_of_every_format():
    assert SAMPLES.keys() == READERS.keys()


@pytest.mark.parametrize("suffix", [suffix for suffix in READERS if suffix not in (".csv", ".tsv", ".eml", ".txt")])
def test_headings_are_kept_as_headings(suffix):
    assert "# Fees\n" in reader_for(suffix).read(SAMPLES[suffix], "file").text or suffix in (".md", ".markdown")


def test_the_suffix_may_be_in_upper_case_and_an_unknown_one_has_no_reader():
    assert reader_for(".MD") is reader_for(".md")
    assert reader_for(".odt") is None
    assert reader_for("") is None


@pytest.mark.parametrize("suffix", READERS)
@settings(max_examples=30, deadline=None)
@given(raw=st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_bytes_raise_nothing_but_unreadable(suffix, raw):
    document = document_or_none(suffix, raw)
    if document is not None:
        assert document.title.encode()
        assert document.text.encode() is not None  # no half of a character pair: it can be written


pieces = st.sampled_from(
    ["---\n", "title: ", "date: 2024-13-45\n", "# ", "## ", "\n", "```", "~~~", "[", "](", ")", "![", "<!--", "-->", "<a ",
     "<b>", "{% ", "%}", "{{", "}}", "{:", "word ", "é", '"', "'", "&amp;", "<title>", "</title>", "<p>", "\t", "[[", ": &a [*a]\n"]
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".md", ".html"])
@settings(max_examples=120, deadline=None)
@given(parts=st.lists(pieces, max_size=30))
def test_broken_markup_raises_nothing_but_unreadable(suffix, parts):
    document = document_or_none(suffix, "".join(parts).encode())
    assert document is None or document.title


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "mark", ["[", "![", "![](", "[a](", "<!--", "<a ", "{{", "{%", "{:", "`", "# a" + " " * 90, "```\n", "---\n"]
)
def test_half_a_million_opening_marks_end(mark):
    """No pattern may take quadratic time: it would be hours for a file of the size that is allowed."""
    text = ("# Title\n\nword\n" + mark * (500_000 // len(mark))).encode()
    assert reader_for(".md").read(text, "name").title == "Title"


def test_front_matter_gives_the_title_and_is_not_text():
    document = markdown("---\ntitle: Travel policy\ntags: [a]\n---\n# Heading\n\nText.\n")
    assert document == Document("Travel policy", "# Heading\n\nText.\n")


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("title: 2024", "2024"),
        ("title: 'Quoted: yes'", "Quoted: yes"),
        ("title:", "Heading"),
        ("other: x", "Heading"),
        ("title: [a, b]", "Heading"),
        ("title: x: y: z", "Heading"),
        ("date: 2024-13-45\ntitle: Dated", "Dated"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ntitle: *b", "Heading"),
        ("a: " + "[" * 3_000, "Heading"),
        ("title: !!python/object/apply:os.getpid []", "Heading"),
    ],
)
def test_front_matter_of_all_kinds(front, title):
    document = markdown(f"---\n{front}\n---\n# Heading\n\nText.\n")
    assert (document.title, document.text) == (title, "# Heading\n\nText.\n")


def test_empty_front_matter_ends_at_its_own_rule():
    assert markdown("---\n---\n# Heading\n\nText.\n\n---\nMore.").text == "# Heading\n\nText.\n\n---\nMore."


def test_text_between_two_rules_at_the_top_is_text():
    text = "---\n\nA quiet start.\n\n---\n\nMore.\n"
    assert markdown(text).text == text


def test_a_rule_in_the_middle_is_no_front_matter():
    assert markdown("Text.\n\n---\ntitle: no\n---\n").title == "file"


def test_the_title_is_else_the_first_top_heading_or_the_files_name():
    assert markdown("## Two\n\n# One #\n\n# Other\n").title == "One"
    assert markdown("## Two\n\ntext").title == "file"
    assert markdown("#\n\nText below an empty heading.").title == "file"
    assert markdown("#hashtag\n").title == "file"


def test_a_comment_in_a_code_block_is_no_title():
    assert markdown("```sh\n# install it\npip install x\n```\n\n# Real title\n").title == "Real title"
    assert markdown("~~~\n# install it\n~~~\ntext").title == "file"


def test_code_keeps_its_brackets_and_braces():
    text = "Use `List<String>` and\n\n```html\n<div>{{ name }}</div> handlers[name](event)\n```\n\nend"
    assert markdown(text + " <b>bold</b>").text == text + " bold"


def test_a_link_around_code_keeps_its_text():
    assert markdown("the [`--out` option](cli.md#out) here").text == "the `--out` option here"


def test_a_title_is_written_without_its_marks():
    assert markdown("# Using **`pip`** with _care_ and snake_case\n").title == "Using pip with care and snake_case"
    assert markdown("# About C#\n").title == "About C#"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("See [the guide](https://x.org/a_(b)) now.", "See the guide now."),
        ('See [the guide](a.md "its title").', "See the guide."),
        ("An ![alt text](image.png) here.", "An alt text here."),
        ("[![badge](b.svg)](https://x.org) text", "badge text"),
        ("Before <!-- hidden\nover lines --> after.", "Before  after."),
        ("Press <kbd>Enter</kbd>.<br/>", "Press Enter."),
        ("{% include note.html %}Text{: .class }", "Text"),
        ("See [the\nguide]({{ site.url }}/{% link a.md %}).", "See the\nguide."),
        ("Dear {{ user.name }}!", "Dear !"),
        ("If a < b and c > d then [1] or (2).", "If a < b and c > d then [1] or (2)."),
        ("[not a link] (really)", "[not a link] (really)"),
    ],
)
def test_marks_go_and_the_text_stays(written, read):
    assert markdown(written).text == read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_line_ends_and_byte_order_marks_of_windows(encoding):
    raw = "---\r\ntitle: Über\r\n---\r\n# Größe\r\n\r\nText.\r".encode(encoding)
    if encoding == "utf-16-le":
        raw = b"\xff\xfe" + raw
    assert markdown(raw) == Document("Über", "# Größe\n\nText.\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Die Prüfung der Anträge für Bürgerinnen und Bürger dauert fünf Tage.", "latin-1"),
        ("Café crème à la carte, s'il vous plaît. Où est la gare?", "cp1252"),
        ("The fee is 5 € – “non-refundable” – it’s final.", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
        ("Заявление на возврат средств подаётся в течение тридцати дней.", "cp1251"),
        ("払い戻しは購入後三十日以内に申請してください。", "shift_jis"),
        ("申请退款需要发票，预订酒店需要护照。", "gb18030"),
    ],
)
def test_a_file_that_is_not_utf8_is_decoded(text, encoding):
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "raw",
    [
        b"text\x00more",
        bytes(range(256)) * 10,
        b"\x01\x02\x03\x04 text \x05",
        b"\xff\xfe" + random.Random(1).randbytes(3_000),
        b"\xff\xfe\x00\x00" + "text".encode("utf-32-le"),
        b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(5_000),
        random.Random(3).randbytes(5_000).replace(b"\x00", b"\x01"),
    ],
    ids=["nul", "all bytes", "control", "looks like utf-16", "utf-32", "png", "random"],
)
def test_bytes_that_are_no_text_are_unreadable_with_a_reason(raw):
    with pytest.raises(Unreadable, match=r"binary|control|encoding"):
        decode(raw)


PAGE = """<html><head><title>Refund policy | Acme Travel</title></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About the navigation</a></li></ul></nav>
<main><h1>Refund policy</h1><p>Tickets can be returned within thirty days after the day of purchase.</p>
<h2>Exceptions</h2><p>Group tickets of more than ten members cannot be returned at all.</p>
<table><tr><th>Kind</th><th>Fee</th></tr><tr><td>Train</td><td>5 EUR</td></tr></table></main>
<footer><p>Copyright and cookie notice</p></footer><script>var tracking = 1;</script></body></html>"""


def test_a_pages_text_without_its_navigation():
    document = html(PAGE)
    assert document.title == "Refund policy"
    assert "within thirty days" in document.text
    assert "## Exceptions" in document.text
    assert "5 EUR" in document.text
    for boilerplate in ("navigation", "cookie", "tracking"):
        assert boilerplate not in document.text


@pytest.mark.parametrize(
    "page",
    [
        '<html><head><meta http-equiv="refresh" content="0; url=/new"></head><body></body></html>',
        "<html><head><title>App</title></head><body><div id=root></div><script>go()</script></body></html>",
        "<!doctype html>",
    ],
)
def test_a_redirect_or_an_empty_page_says_so(page):
    with pytest.raises(Unreadable, match=r"no text in the page \(a redirect, or built by scripts\)"):
        html(page)


def test_the_title_of_a_page_is_unescaped_and_else_the_files_name():
    assert html(PAGE.replace("Refund policy |", "Terms &amp;\n  conditions –")).title == "Terms & conditions"
    assert html(PAGE.replace("<title>Refund policy | Acme Travel</title>", "")).title == "file"


def test_a_page_in_another_encoding_is_decoded_as_it_declares():
    page = PAGE.replace("<head>", '<head><meta charset="iso-8859-2">').replace("thirty days", "třiceti dnů po nákupu")
    assert "třiceti dnů po nákupu" in html(page.encode("iso-8859-2")).text


def test_plain_text_is_taken_as_it_is():
    assert reader_for(".txt").read(b"---\ntitle: x\n---\n[a](b)", "notes") == Document(
        "notes", "---\ntitle: x\n---\n[a](b)"
    )
