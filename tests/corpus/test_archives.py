"""Archives as folders: what is sound is read, what is not is listed, and nothing is ever written outside."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from shoptalk.corpus.archives import is_archive, unpack


def packed(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def tarred(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as out:
        for name, data in members.items():
            entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))
            else:
                out.addfile(entry)
    return path


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def take(path: Path, max_file: int = 10_000_000, max_bytes: int = 50_000_000, max_files: int = 100):
    folder = path.parent / f"{path.name}-unpacked"
    folder.mkdir()
    before = set(path.parent.rglob("*"))
    answer = unpack(str(path), path.suffix, str(folder), max_file, max_bytes, max_files)
    written = set(path.parent.rglob("*")) - before
    assert all(file.parent == folder for file in written)
    if "unreadable" in answer:
        return {}, answer["unreadable"]
    return {name: Path(file).read_bytes() for name, file in answer["files"]}, dict(answer["rejected"])


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_every_kind_is_unpacked_and_its_folders_are_no_files(tmp_path, name):
    members = {"deep/er/a.md": b"one", "b.txt": b"two"}
    make = packed if name.endswith("zip") else tarred
    assert is_archive(name.upper())
    assert take(make(tmp_path / name, members)) == (members, {})


BAD = {
    "/etc/cron.d/x.md": "an absolute path",
    "C:\\x.md": "an absolute path",
    "\\\\server\\x.md": "an absolute path",
    "../x.md": "a path that leaves the archive",
    "a/../../x.md": "a path that leaves the archive",
    "a\\..\\x.md": "a path that leaves the archive",
}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_absolute_and_parent_paths_are_listed(tmp_path, name):
    make = packed if name.endswith("zip") else tarred
    found, rejected = take(make(tmp_path / name, {**dict.fromkeys(BAD, b"text"), "good.md": b"text"}))
    assert found == {"good.md": b"text"}
    assert rejected == BAD


def test_links_and_devices_are_listed(tmp_path):
    members = {
        "link.md": member("link.md", tarfile.SYMTYPE, "/etc/passwd"),
        "hard.md": member("hard.md", tarfile.LNKTYPE, "good.md"),
        "pipe.md": member("pipe.md", tarfile.FIFOTYPE),
        "device.md": member("device.md", tarfile.CHRTYPE),
        "good.md": b"text",
    }
    found, rejected = take(tarred(tmp_path / "a.tar", members))
    assert found == {"good.md": b"text"}
    assert rejected == {
        "link.md": "a link; not followed",
        "hard.md": "a link; not followed",
        "pipe.md": "not a plain file",
        "device.md": "not a plain file",
    }


def test_a_link_in_a_zip_is_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        entry = zipfile.ZipInfo("link.md")
        entry.external_attr = 0o120777 << 16
        out.writestr(entry, "/etc/passwd")
    assert take(tmp_path / "a.zip") == ({}, {"link.md": "a link; not followed"})


def test_a_member_that_comes_twice_is_read_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("a.md", "first")
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("a.md", "second")
    found, rejected = take(tmp_path / "a.zip")
    assert found == {"a.md": b"first"}
    assert rejected == {"a.md": "its name comes twice in the archive; the first one is read"}


def test_a_member_that_unpacks_to_many_times_its_size_or_is_too_large_is_listed(tmp_path):
    path = packed(
        tmp_path / "a.zip", {"bomb.txt": bytes(5_000_000), "large.txt": bytes(11_000_000), "good.md": b"text"}
    )
    found, rejected = take(path)
    assert found == {"good.md": b"text"}
    assert rejected == {
        "bomb.txt": "unpacks to more than 200 times its size",
        "large.txt": "11.0 MB unpacked; ingest.max_file_mb is 10",
    }


def test_a_header_that_lies_about_the_size_does_not_help(tmp_path):
    path = packed(tmp_path / "a.zip", {"lies.txt": b"x" * 300_000})
    raw = path.read_bytes()
    size = (300_000).to_bytes(4, "little")
    assert raw.count(size) == 2
    path.write_bytes(raw.replace(size, (300).to_bytes(4, "little")))
    found, rejected = take(path, max_file=1_000)
    assert found == {} or len(found["lies.txt"]) <= 1_000
    assert set(found) | set(rejected) == {"lies.txt"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_the_caps_of_the_whole_archive(tmp_path, name):
    make = packed if name.endswith("zip") else tarred
    path = make(tmp_path / name, {f"{n}.md": bytes([65 + n]) * 1_000 for n in range(10)})
    found, rejected = take(path, max_files=4)
    assert len(found) == 4
    assert rejected == {"": "holds more than 4 files (ingest.max_archive_files); the rest is left out"}
    (tmp_path / "sub").mkdir()
    found, rejected = take(path.rename(tmp_path / "sub" / name), max_bytes=3_500)
    assert len(found) == 3
    assert rejected == {"": "unpacks to more than 0.0035 MB (ingest.max_archive_mb); the rest is left out"}


def test_an_encrypted_member_is_listed(tmp_path):
    path = packed(tmp_path / "a.zip", {"secret.md": b"text"}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(raw))
    assert take(path) == ({}, {"secret.md": "encrypted"})


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_what_is_no_archive_says_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"no archive at all" * 100)
    assert "damaged, or not an archive" in take(tmp_path / name)[1]


def test_a_cut_archive_gives_what_came_before(tmp_path):
    members = {f"{n}.md": bytes(range(256)) * 40 for n in range(20)}
    path = tarred(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: 10 * 11_000])
    found, rejected = take(path)
    assert 5 < len(found) < 20
    assert rejected
