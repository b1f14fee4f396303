"""What each format keeps: structure, order, tables, pages; and what it says of files that cannot be read."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from samples import TEXT, docx, encrypted_pdf, epub, mail, pdf, pptx, xlsx

from shoptalk.corpus.readers import Document, Unreadable, reader_for

BODY = "The manager approves every travel request within five days of its arrival"


def read(suffix: str, raw: bytes | str, name: str = "file") -> Document:
    return reader_for(suffix).read(raw.encode() if isinstance(raw, str) else raw, name)


def paged(n_pages: int, *extra: tuple[str, float, float]) -> bytes:
    """Pages with a running header, a body that differs, and a page number."""
    pages = [
        [
            ("Acme handbook", 810, 9),
            (f"{BODY} number {chr(96 + n)}.", 700, 11),
            *extra,
            (f"Page {n} of {n_pages}", 30, 9),
        ]
        for n in range(1, n_pages + 1)
    ]
    return pdf(pages)


def test_a_pdfs_running_headers_and_page_numbers_go_and_its_pages_are_known():
    document = read(".pdf", paged(4))
    assert "Acme" not in document.text
    assert "Page" not in document.text
    starts = [*document.page_starts, len(document.text)]
    assert len(starts) == 5
    for letter, start, end in zip("abcd", starts, starts[1:], strict=False):
        assert f"number {letter}." in document.text[start:end]


def test_a_pdf_of_two_pages_keeps_what_both_have_but_not_its_page_numbers():
    text = read(".pdf", paged(2)).text
    assert text.count("Acme handbook") == 2
    assert "Page" not in text


def test_a_pdfs_lines_become_paragraphs_and_hyphenated_words_are_whole():
    lines = [
        ("The manager approves every travel request within five days of its arri-", 700, 11),
        ("val at the office, without exception, and the office keeps the request for", 686, 11),
        ("a year.", 672, 11),
        ("Another paragraph begins here after a larger gap.", 630, 11),
    ]
    text = read(".pdf", pdf([lines])).text
    assert "of its arrival at the office" in text
    assert "request for a year." in text
    assert "year.\n\nAnother paragraph" in text


def test_a_pdfs_sentence_goes_on_over_the_page():
    pages = [[("The manager approves every travel", 700, 11)], [("request within five days.", 780, 11)]]
    document = read(".pdf", pdf(pages))
    assert document.text == "The manager approves every travel request within five days."
    assert document.page_starts[1] == document.text.index("request")


def test_a_pdfs_large_and_bold_lines_are_headings():
    lines = [
        ("Travel guide", 780, 24),
        *((f"{BODY} for the time being.", 740 - 14 * n, 11) for n in range(3)),
        ("**Hotels", 660, 11),
        *((f"{BODY} for the time being.", 640 - 14 * n, 11) for n in range(3)),
    ]
    document = read(".pdf", pdf([lines]))
    assert document.title == "Travel guide"
    assert "# Travel guide\n\n" in document.text
    assert "\n\n## Hotels\n\n" in document.text


def test_a_pdfs_rows_of_numbers_and_bullets_stay_lines():
    lines = [
        ("Revenue $ 5,897.8 $ 5,665.6 4 %", 700, 11),
        ("Operating income 2,532.4 2,312.6 10", 686, 11),
        ("• first point of the list", 672, 11),
        ("• second point", 658, 11),
    ]
    text = read(".pdf", pdf([lines])).text
    assert "5,665.6 4 %\nOperating" in text
    assert "\n- first point of the list\n- second point" in text


def test_an_encrypted_a_scanned_and_a_damaged_pdf_say_so():
    with pytest.raises(Unreadable, match="encrypted; save it without a password"):
        read(".pdf", encrypted_pdf())
    with pytest.raises(Unreadable, match=r"no text on its 2 pages \(scanned\?\)"):
        read(".pdf", pdf([[], []]))
    with pytest.raises(Unreadable, match="not a PDF"):
        read(".pdf", b"%PDF-1.4 nothing")
    assert read(".pdf", pdf([[(BODY, 700, 11)], []])).note == "1 of 2 pages have no text (scanned?)"


def test_a_word_document_in_its_order():
    assert read(".docx", docx()) == Document(
        "Guide",
        f"# Guide\n\n## Fees\n\n{TEXT}\n\n- first item\n- second item\n\n| Kind | Fee |\n| --- | --- |\n| Exam | 5 \\| 6 |"
        "\n\nAfter the table.",
    )


def edited_docx(xml: str) -> bytes:
    """A Word document whose body holds the elements `xml`."""
    old = zipfile.ZipFile(io.BytesIO(docx()))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "word/document.xml":
                head = data[: data.index(b"<w:body>") + len(b"<w:body>")]
                data = head + xml.encode() + b"</w:body></w:document>"
            new.writestr(name, data)
    return out.getvalue()


def test_a_word_document_with_changes_shows_the_new_text_and_content_controls_theirs():
    inserted = "<w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
    xml = (
        f"<w:p><w:r><w:t>The </w:t></w:r>{inserted}<w:r><w:t> text</w:t></w:r></w:p>"
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>In a field</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>A frame</w:t></w:r></w:p><w:p><w:r><w:t>around text</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    )
    assert read(".docx", edited_docx(xml)).text == "The new text\n\nIn a field\n\nA frame\n\naround text"


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx"])
def test_an_encrypted_or_damaged_office_file_says_so(suffix):
    with pytest.raises(Unreadable, match="encrypted, or of"):
        read(suffix, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(Unreadable, match="not "):
        read(suffix, b"PK\x03\x04 and nothing more")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as other:
        other.writestr("a.txt", "text")
    with pytest.raises(Unreadable, match="not "):
        read(suffix, out.getvalue())


def test_slides_are_pages_with_titles_tables_and_notes():
    document = read(".pptx", pptx())
    assert document.title == "Start"
    assert document.text[document.page_starts[1] :] == (
        f"## Fees\n\n{TEXT}\n\n| Kind | Fee |\n| --- | --- |\n| Exam | 5 |\n\nNotes: Say it slowly."
    )


def test_a_workbooks_sheets_are_sections_and_its_numbers_look_as_on_the_sheet():
    raw = xlsx({"Empty": [], "Fees": [["Kind", None, "Fee"], [None], ["Exam", None, 5.0], ["Visit", None, 7.25]]})
    assert read(".xlsx", raw).text == "## Fees\n\n| Kind | Fee |\n| --- | --- |\n| Exam | 5 |\n| Visit | 7.25 |"


def test_long_rows_are_records_with_their_column_names():
    long = "A long answer. " * 30
    text = read(".xlsx", xlsx({"FAQ": [["Question", "Answer", "Owner"], ["Who pays?", long, "Ann"]]})).text
    assert text == f"## FAQ\n\n## Who pays?\n\nOwner: Ann\n\n{long.strip()}"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimited_text_whatever_its_delimiter(delimiter):
    rows = [("kind", "fee"), ("exam", "5.50 EUR"), ("visit", "7.25 EUR")]
    raw = "\n".join(delimiter.join(row) for row in rows)
    assert read(".csv", raw).text == "| kind | fee |\n| --- | --- |\n| exam | 5.50 EUR |\n| visit | 7.25 EUR |"


def test_json_lines_are_documents_by_their_usual_fields():
    rows = [
        {"_id": "1", "title": "One", "text": "First.", "tags": ["a", "b"], "n": 3, "deep": {"x": 1}, "flag": True},
        {"question": "Who?", "answer": "Ann."},
        {"number": 3},
    ]
    document = read(".jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert document.text == "## One\n\ntags: a, b\nn: 3\n\nFirst.\n\n## Who?\n\nAnn."
    assert document.note == "1 lines without a text"


@pytest.mark.parametrize(
    ("raw", "reason"), [('{"a": 1}\nno', "line 2 is not JSON"), ("[1]", "line 1 is not a JSON object")]
)
def test_lines_that_are_no_objects_are_named(raw, reason):
    with pytest.raises(Unreadable, match=reason):
        read(".jsonl", raw)


def test_a_bad_line_among_good_ones_is_noted():
    document = read(".jsonl", '{"text": "one"}\n{"text": "two"}\n{"text": "cu')
    assert document.text == "one\n\ntwo"
    assert document.note.startswith("1 lines left out; the first: line 3 is not JSON")


def test_a_book_is_read_in_the_order_of_its_spine():
    document = read(".epub", epub({"b.xhtml": "<h1>Second</h1><p>two</p>", "a.xhtml": "<h1>First</h1><p>one</p>"}))
    assert document == Document("The book", "# First\n\none\n\n# Second\n\ntwo")


def test_a_protected_or_damaged_book_says_so():
    raw = io.BytesIO(epub({"a.xhtml": "<p>one</p>"}))
    with zipfile.ZipFile(raw, "a") as book:
        book.writestr("META-INF/rights.xml", "<rights/>")
    with pytest.raises(Unreadable, match="digital rights"):
        read(".epub", raw.getvalue())
    with pytest.raises(Unreadable, match="not a book"):
        read(".epub", b"PK\x03\x04")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as other:
        other.writestr("a.txt", "text")
    with pytest.raises(Unreadable, match="not a book that can be read"):
        read(".epub", out.getvalue())


def test_a_mail_without_what_it_quotes_and_its_signature():
    announced = "On Mon, 6 May 2024 at 10:00, the office\n<office@example.org> wrote:"
    written = f"Please use the new form.\n\n{announced}\n> old text\n> more\n\nThanks.\n-- \nA. Writer\nPhone 1"
    text = read(".eml", mail(written).as_bytes()).text
    assert text.endswith("Please use the new form.\n\nThanks.")
    for gone in ("old text", "wrote", "Phone"):
        assert gone not in text


def test_a_mail_in_html_and_its_attachments():
    message = mail("")
    message.set_content("<p>See <b>below</b>.</p><blockquote>quoted</blockquote>", subtype="html")
    message.add_attachment(f"# Fees\n\n{TEXT}".encode(), maintype="text", subtype="markdown", filename="fees.md")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="logo.png")
    message.add_attachment(mail("The first mail.", "Earlier"))
    document = read(".eml", message.as_bytes())
    assert "See below." in document.text
    assert "quoted" not in document.text
    assert f"## fees.md\n\n# Fees\n\n{TEXT}" in document.text
    assert "The first mail." in document.text
    assert document.note == "attachment logo.png: no reader for .png"


def test_what_is_no_mail_says_so():
    with pytest.raises(Unreadable, match="not a mail"):
        read(".eml", b"\n\njust text")


def test_restructured_text_with_what_only_sphinx_knows():
    source = """
=====
Guide
=====

.. toctree::
   :maxdepth: 2

   other

See :ref:`the fees <fees>` and :py:func:`~pkg.run`.

.. _fees:

Fees
----

.. versionadded:: 2.0
   The new fee.

.. code-block:: python
   :linenos:

   run()

.. unknown-thing:: with words

   Its content.

+------+-----+
| Kind | Fee |
+======+=====+
| Exam | 5   |
+------+-----+

.. include:: /etc/passwd
.. raw:: html

   <script>bad()</script>
"""
    document = read(".rst", source)
    assert document.title == "Guide"
    assert document.text == (
        "# Guide\n\nSee the fees and pkg.run.\n\n## Fees\n\n2.0 The new fee.\n\n```\nrun()\n```\n\nwith words\n\nIts content.\n\n"
        "| Kind | Fee |\n| --- | --- |\n| Exam | 5 |"
    )


PAGE = """<html><head><title>Refunds | Acme</title></head><body>
<header><p>Acme, the travel company of your choice</p></header>
<div class="cookie-consent"><p>We use cookies to make this site better for you.</p></div>
<nav aria-label="Breadcrumb"><ul><li>Home</li><li>Refunds</li></ul></nav>
<ul class="language-switcher"><li>English</li><li>Deutsch</li></ul>
<main><h1>Refunds</h1><p>{}</p><ol><li><h4>Ask</h4> the office first, which answers soon.</li></ol>
<div id="page-feedback" class="feedback"><p>Was this page helpful? Yes No</p></div></main>
<footer>Imprint and privacy</footer></body></html>"""


def test_a_page_without_what_it_calls_navigation_itself():
    text = read(".html", PAGE.format(BODY)).text
    assert BODY in text
    assert "Ask" in text
    for boilerplate in ("company", "cookies", "Home", "Deutsch", "helpful", "Imprint", "####"):
        assert boilerplate not in text


def test_a_page_that_only_says_it_is_loading_has_no_text():
    with pytest.raises(Unreadable, match="built by scripts"):
        read(
            ".html",
            "<body><main><div class='loading-indicator'>Please wait while we load the application.</div></main>",
        )


def test_a_page_that_calls_all_its_text_a_modal_keeps_it():
    page = f"<body><div class='modal'>{'<p>' + BODY + '</p>'}{'<p>' + TEXT + '</p>' * 3}{f'<p>{BODY}.</p>' * 5}</div></body>"
    assert BODY in read(".html", page).text
