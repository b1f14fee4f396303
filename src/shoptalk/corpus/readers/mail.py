"""A mail: its subject as title, what its writer wrote without quoted replies and signature, and its attachments."""

from __future__ import annotations

import email
import email.message
import email.policy
import re
from collections.abc import Iterator
from pathlib import PurePath

from shoptalk.corpus import markup
from shoptalk.corpus.readers import Document, Unreadable, decode, reader_for
from shoptalk.errors import MissingPart

_MOST_NESTED = 3
_ORIGINAL = re.compile(
    r"^\s*-{2,}\s*(?:original message|ursprüngliche nachricht|message d'origine)\s*-{2,}", re.IGNORECASE
)
_WROTE = re.compile(
    r"^(?:on|am|le|el|il)\b.{6,200}(?:wrote|schrieb.*|a écrit|escribió|ha scritto)\s*:\s*$", re.IGNORECASE
)


def read(raw: bytes, name: str) -> Document:
    """Sender and date, the text, and every attachment that has a reader. Raises Unreadable."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    if not message.keys():
        raise Unreadable("not a mail: it has no header")
    title, text, notes = _mail(message, 0)
    return Document(title or name, text, note="; ".join(notes))


def _mail(message: email.message.EmailMessage, depth: int) -> tuple[str, str, list[str]]:
    title = _header(message, "subject")
    lines = [f"{label}: {value}" for label in ("From", "Date") if (value := _header(message, label))]
    text, notes = _body(message), list[str]()
    blocks = ["\n".join(lines), text]
    for part in _attachments(message):
        file = part.get_filename() or "attached mail"
        try:
            blocks.append(f"## {file}\n\n{_attached(part, file, depth)}")
        except (Unreadable, MissingPart) as reason:
            notes.append(f"attachment {file}: {reason}")
    return title, "\n\n".join(filter(None, blocks)), notes


def _attachments(message: email.message.EmailMessage) -> Iterator[email.message.EmailMessage]:
    for part in message.iter_attachments():
        if isinstance(part, email.message.EmailMessage) and part.get_content_disposition() != "inline":
            yield part


def _attached(part: email.message.EmailMessage, file: str, depth: int) -> str:
    if depth >= _MOST_NESTED:
        raise Unreadable(f"nested deeper than {_MOST_NESTED} mails")
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload(0)
        if not isinstance(inner, email.message.EmailMessage):
            raise Unreadable("not a mail")
        title, text, _ = _mail(inner, depth + 1)
        return f"{title}\n\n{text}"
    suffix = PurePath(file).suffix
    reader = reader_for(suffix)
    payload = part.get_payload(decode=True)
    if reader is None or suffix.lower() == ".eml":
        raise Unreadable(f"no reader for {suffix or 'files without a suffix'}")
    if not isinstance(payload, bytes):
        raise Unreadable("cannot be decoded")
    return reader.read(payload, PurePath(file).stem).text


def _body(message: email.message.EmailMessage) -> str:
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text = decode(raw)
    if part.get_content_type() == "text/html":
        return _page(text)
    return _own_words(text.replace("\r\n", "\n").replace("\r", "\n"))


def _page(text: str) -> str:
    tree = markup.parse(text)
    if tree is None:
        return ""
    for quoted in tree.xpath(
        "//blockquote | //*[contains(@class, 'gmail_quote') or contains(@class, 'gmail_signature')]"
    ):
        if quoted.getparent() is not None:
            quoted.drop_tree()
    return _own_words(markup.to_markdown(tree))


def _own_words(text: str) -> str:
    """Without quoted lines, the line that announces them, a whole mail quoted below, and the signature."""
    kept: list[str] = []
    lines = iter(_unwrapped(text.split("\n")))
    for line in lines:
        if line in ("-- ", "--") or (_ORIGINAL.match(line) and any(kept)):
            break
        if not line.startswith(">") and not _WROTE.match(line):
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _unwrapped(lines: list[str]) -> Iterator[str]:
    """The lines, with an announcement ("On ... wrote:") that was broken in two made one again."""
    skip = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if skip:
            skip = False
        elif not _WROTE.match(line) and following and _WROTE.match(f"{line} {following}"):
            skip = True
            yield f"{line} {following}"
        else:
            yield line


def _header(message: email.message.EmailMessage, name: str) -> str:
    try:
        value = str(message[name] or "")
    except Exception:  # a header that the parser itself stumbles on
        return ""
    return " ".join(value.encode("utf-8", "replace").decode().split())
