"""Small real files of every format, made with the libraries that write them; each holds TEXT below a heading "Fees"."""

from __future__ import annotations

import ctypes
import email.message
import email.policy
import io
import json
import zipfile
from collections.abc import Sequence

TEXT = "Ein Absatz über Prüfungen und Gebühren, lang genug."
Run = tuple[str, float, float]
"""A text, its distance from the bottom of the page, and its font size, both in points."""


def every_sample() -> dict[str, bytes]:
    """The bytes of a file by suffix."""
    page = f"<html><body><main><h2>Fees</h2><p>{TEXT}</p></main></body></html>".encode()
    markdown = f"## Fees\n\n{TEXT}\n".encode()
    return {
        ".md": markdown,
        ".markdown": markdown,
        ".txt": f"Fees\n====\n\n{TEXT}\n".encode(),
        ".rst": f"Intro\n=====\n\nFees\n----\n\n{TEXT}\n\nMore\n----\n\nEnd.\n".encode(),
        ".html": page,
        ".htm": page,
        ".pdf": pdf([[("Fees", 780, 24), (TEXT, 740, 11), ("And a second line of the same size.", 726, 11)]]),
        ".docx": docx(),
        ".pptx": pptx(),
        ".xlsx": xlsx({"Fees": [["Kind", "Note"], ["Exam", TEXT]]}),
        ".csv": f"kind,note\nexam,{json.dumps(TEXT, ensure_ascii=False)}\n".encode(),
        ".tsv": f"kind\tnote\nexam\t{TEXT}\n".encode(),
        ".jsonl": (json.dumps({"_id": "1", "title": "Fees", "text": TEXT}) + "\n").encode(),
        ".epub": epub({"one.xhtml": f"<h2>Fees</h2><p>{TEXT}</p>"}),
        ".eml": mail(TEXT).as_bytes(),
    }


def pdf(pages: Sequence[Sequence[Run]], title: str = "") -> bytes:
    """Pages with lines in Helvetica (in Helvetica-Bold where the text begins with "**")."""
    import pypdfium2
    import pypdfium2.raw as raw

    document = pypdfium2.PdfDocument.new()
    for lines in pages:
        page = document.new_page(595, 842)
        for text, bottom, size in lines:
            font = b"Helvetica-Bold" if text.startswith("**") else b"Helvetica"
            written = raw.FPDFPageObj_NewTextObj(document, font, size)
            units = (text.removeprefix("**") + "\x00").encode("utf-16-le")
            raw.FPDFText_SetText(written, ctypes.cast(units, ctypes.POINTER(ctypes.c_ushort)))
            raw.FPDFPageObj_Transform(written, 1, 0, 0, 1, 60, bottom)
            raw.FPDFPage_InsertObject(page, written)
        page.gen_content()
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def encrypted_pdf() -> bytes:
    """A PDF that asks for a password: its keys fit none."""
    key = "<" + "5a" * 32 + ">"
    parts = [
        b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj",
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj",
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj",
        f"4 0 obj<</Filter/Standard/V 1/R 2/O {key}/U {key}/P -4>>endobj".encode(),
    ]
    out = b"%PDF-1.4\n"
    offsets = []
    for part in parts:
        offsets.append(len(out))
        out += part + b"\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer<</Size 5/Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]>>\nstartxref\n{len(out)}\n%%EOF"
    return out + f"xref\n0 5\n0000000000 65535 f \n{table}{trailer}".encode()


def docx() -> bytes:
    import docx as word

    document = word.Document()
    document.add_heading("Guide", 0)
    document.add_heading("Fees", 1)
    document.add_paragraph(TEXT)
    document.add_paragraph("first item", style="List Bullet")
    document.add_paragraph("second item", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for row, values in zip(table.rows, [("Kind", "Fee"), ("Exam", "5 | 6")], strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    document.add_paragraph("After the table.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def pptx() -> bytes:
    from pptx import Presentation
    from pptx.util import Inches

    slides = Presentation()
    for title, text in (("Start", "Welcome to the course."), ("Fees", TEXT)):
        slide = slides.slides.add_slide(slides.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
    for row, values in enumerate([("Kind", "Fee"), ("Exam", "5")]):
        for column, value in enumerate(values):
            table.cell(row, column).text = value
    out = io.BytesIO()
    slides.save(out)
    return out.getvalue()


def xlsx(sheets: dict[str, list[list[object]]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def epub(chapters: dict[str, str], title: str = "The book") -> bytes:
    items = "".join(
        f'<item id="c{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", container)
        book.writestr("OEBPS/book.opf", package)
        for name, body in chapters.items():
            page = f'<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
            book.writestr(f"OEBPS/{name}", page)
    return out.getvalue()


def mail(text: str, subject: str = "Fees") -> email.message.EmailMessage:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = subject
    message["From"] = "office@example.org"
    message["To"] = "team@example.org"
    message["Date"] = "Mon, 06 May 2024 10:00:00 +0000"
    message.set_content(text)
    return message
