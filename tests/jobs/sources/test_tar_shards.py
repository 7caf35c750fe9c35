"""Tar shards, without Ray: every picture in them is a row, damage costs what lies behind it and no more, and is said."""

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

import jobs.sources.tar_shards
from jobs.blocks import ENCODED, FAILURE, ID
from jobs.errors import SourceError
from jobs.sources.given_faces import GivenInput
from jobs.sources.source import Source, open_source
from jobs.sources.tar_shards import MAX_HEADER_BYTES, MAX_TRAILING_BYTES, TarShards, list_members
from tests.jobs.conftest import MakeConfig
from tests.jobs.seaweed import BUCKET, Seaweed
from tests.jobs.sources.test_sources import read_all, reasons

Member = tuple[str, bytes]


def shard(
    *members: Member, changed: dict[str, dict[str, object]] | None = None, kind: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar. changed: attributes of its members' headers, by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            for attribute, value in (changed or {}).get(name, {}).items():
                setattr(header, attribute, value)
            tar.addfile(header, io.BytesIO(content) if header.isreg() else None)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def contents(source: Source) -> dict[str, bytes | None]:
    return {row[ID]: row[ENCODED] for row in read_all(source)}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_each_picture_of_each_sample_is_a_row(photos: Path, make_config: MakeConfig, kind: int) -> None:
    long = f"{'b' * 90}/{'c' * 90}.jpg"
    (photos / "train").mkdir()
    (photos / "train" / "0.tar").write_bytes(
        shard(("z.jpg", b"0z"), ("z.json", b"{}"), ("a.left.jpg", b"0l"), ("a.right.PNG", b"0r" * 999), kind=kind)
    )
    (photos / "1.tar").write_bytes(shard(("./z.jpg", b"1z"), ("z.cls", b"7"), (long, b"deep"), kind=kind))
    source = open_source(make_config())
    assert contents(source) == {
        "train/0.tar/z.jpg": b"0z", "train/0.tar/a.left.jpg": b"0l", "train/0.tar/a.right.PNG": b"0r" * 999,
        "1.tar/z.jpg": b"1z", f"1.tar/{long}": b"deep",
    }  # fmt: skip
    assert (source.kind, source.ignored, source.total) == ("tar", 2, 5)
    assert contents(open_source(make_config(photos=photos / "1.tar")))["1.tar/z.jpg"] == b"1z"
    assert set(contents(open_source(make_config(include=["train/*"])))) == {
        id_ for id_ in contents(source) if "/0" in id_
    }
    assert len(read_all(source, frozenset({0, 2, 4}))) == 2


def test_a_row_is_known_again_until_its_shard_changes(photos: Path, make_config: MakeConfig) -> None:
    path = photos / "0.tar"
    path.write_bytes(shard(("a.jpg", b"a")))
    first = open_source(make_config())
    (photos / "1.tar").write_bytes(shard(("b.jpg", b"b")))
    grown = open_source(make_config())
    assert grown.versions[0] == first.versions[0] and grown.digest != first.digest
    path.write_bytes(shard(("x.json", b"{}"), ("a.jpg", b"A")))
    os.utime(path, ns=(1, 1))
    assert open_source(make_config()).versions[0] != first.versions[0]
    assert reasons(first) == {"0.tar/a.jpg": "unreadable"}, "other bytes lie at the place that was listed"


def test_given_boxes_name_a_picture_in_a_shard(photos: Path, make_config: MakeConfig) -> None:
    (photos / "0.tar").write_bytes(shard(("a.jpg", b"a")))
    boxes = photos.parent / "boxes.csv"
    boxes.write_text("file,x0,y0,x1,y1\n0.tar/a.jpg,0,0,9,9\n")
    assert open_source(make_config(), GivenInput(boxes=boxes)).given_digest
    boxes.write_text("file,x0,y0,x1,y1\na.jpg,0,0,9,9\n")
    with pytest.raises(SourceError, match=r"a\.jpg"):
        open_source(make_config(), GivenInput(boxes=boxes))


@pytest.mark.parametrize(
    ("name", "header", "reason"),
    [
        ("/etc/a.jpg", {}, "bad_id"),
        ("../../a.jpg", {}, "bad_id"),
        ("b/../a.jpg", {}, "bad_id"),
        ("b//a.jpg", {}, "bad_id"),
        ("b\udcff.jpg", {}, "bad_id"),
        ("n" * 5000 + ".jpg", {}, "bad_id"),
        ("ok.jpg", {}, "duplicate_id"),
        ("./ok.jpg", {}, "duplicate_id"),
        ("link.jpg", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "unreadable"),
        ("hard.jpg", {"type": tarfile.LNKTYPE, "linkname": "ok.jpg", "size": 0}, "unreadable"),
        ("dev.jpg", {"type": tarfile.CHRTYPE, "size": 0}, "unreadable"),
        ("pipe.jpg", {"type": tarfile.FIFOTYPE, "size": 0}, "unreadable"),
        ("pax.jpg", {"pax_headers": {"path": "../pax.jpg"}}, "bad_id"),
        ("sparse.jpg", {"pax_headers": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "99"}}, "unreadable"),
        ("large.jpg", {}, "too_large"),
    ],
)
def test_a_member_that_is_no_picture_costs_its_own_row(
    photos: Path, make_config: MakeConfig, name: str, header: dict[str, object], reason: str
) -> None:
    content = b"x" * (2000 if name == "large.jpg" else 5)
    changed = {name: header} if header else None
    made = shard(("ok.jpg", b"ok"), (name, content), ("last.jpg", b"last"), changed=changed)
    (photos / "0.tar").write_bytes(made)
    source = open_source(make_config(max_file_bytes=1000))
    rows = read_all(source)
    assert sorted(row[FAILURE].split(":")[0] for row in rows) == ["", "", reason]
    assert {row[ENCODED] for row in rows} == {b"ok", b"last", None}


def damaged_shards() -> dict[str, bytes]:
    good = shard(("ok.jpg", b"ok" * 700), ("b.jpg", b"b"))
    second = 512 + 1536
    pax = shard(("ok.jpg", b"ok"), ("p", b"x" * (MAX_HEADER_BYTES + 1)), changed={"p": {"type": tarfile.REGTYPE}})
    at = 1024 + 156
    huge = bytearray(pax)
    huge[at : at + 1] = b"x"
    negative = bytearray(good)
    negative[second + 124 : second + 136] = b"\xff" * 8 + (-512).to_bytes(4, "big", signed=True)
    for made, start in ((huge, 1024), (negative, second)):
        made[start + 148 : start + 156] = b" " * 8
        made[start + 148 : start + 156] = b"%06o\0 " % sum(made[start : start + 512])
    return {
        "cut in a header": good[: second + 100],
        "cut between two": good[:second],
        "a broken header": good[:second] + b"\x01" * 512 + good[second + 512 :],
        "a header too large": bytes(huge),
        "a negative size": bytes(negative),
        "two in one": shard(("ok.jpg", b"ok")) + good[:1] * (MAX_TRAILING_BYTES + 1),
    }


@pytest.mark.parametrize("name", damaged_shards())
def test_damage_costs_what_lies_behind_it_and_says_so(photos: Path, make_config: MakeConfig, name: str) -> None:
    (photos / "0.tar").write_bytes(damaged_shards()[name])
    (photos / "1.tar").write_bytes(shard(("a.jpg", b"a")))
    source = open_source(make_config())
    found = reasons(source)
    assert found.pop("0.tar/*") == "unreadable"
    assert found["0.tar/ok.jpg"] == "" and found["1.tar/a.jpg"] == ""
    assert "0.tar" in str(read_all(source)) and "after" in str(read_all(source))


def test_a_member_that_its_shard_cuts_off_is_no_picture(photos: Path, make_config: MakeConfig) -> None:
    (photos / "0.tar").write_bytes(shard(("ok.jpg", b"ok"), ("b.jpg", b"b" * 2000))[: 1024 + 512 + 600])
    assert reasons(open_source(make_config())) == {
        "0.tar/ok.jpg": "",
        "0.tar/b.jpg": "unreadable",
        "0.tar/*": "unreadable",
    }


@pytest.mark.parametrize("content", [b"", b"no tar", gzip.compress(shard(("a.jpg", b"a"))), b"\x01" * 2000])
def test_what_is_no_tar_is_one_row(photos: Path, make_config: MakeConfig, content: bytes) -> None:
    (photos / "0.tar").write_bytes(content)
    (photos / "1.tar").write_bytes(shard(("a.jpg", b"a")))
    assert reasons(open_source(make_config())) == {"0.tar/*": "unreadable", "1.tar/a.jpg": ""}


def test_headers_in_headers_do_not_end_the_listing(photos: Path, make_config: MakeConfig) -> None:
    one = bytearray(shard(("h", b""), ("ok.jpg", b"ok"))[:512])
    one[156:157] = b"x"
    one[148:156] = b" " * 8
    one[148:156] = b"%06o\0 " % sum(one)
    (photos / "0.tar").write_bytes(shard(("ok.jpg", b"ok"))[:1024] + bytes(one) * 5000)
    assert reasons(open_source(make_config())) == {"0.tar/ok.jpg": "", "0.tar/*": "unreadable"}


def test_what_can_not_be_a_source_is_refused(photos: Path, make_config: MakeConfig) -> None:
    (photos / "0.tar.gz").write_bytes(gzip.compress(shard(("a.jpg", b"a"))))
    with pytest.raises(SourceError, match="unpack"):
        open_source(make_config())
    with pytest.raises(SourceError, match="unpack"):
        open_source(make_config(photos=photos / "0.tar.gz"))
    (photos / "0.tar").write_bytes(shard(("a.txt", b"a")))
    with pytest.raises(SourceError, match="no picture"):
        open_source(make_config())
    (photos / "a.jpg").write_bytes(b"a")
    with pytest.raises(SourceError, match="pictures and tar shards"):
        open_source(make_config())


def test_listing_reads_headers_and_no_pictures(tmp_path: Path) -> None:
    with (tmp_path / "0.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        header = tarfile.TarInfo("huge.jpg")
        header.size = 2**40
        file.write(header.tobuf())
        file.truncate(512 + 2**40)
        file.seek(0, 2)
        tar.offset = 0
    members = [member.size for member in list_members(pafs.LocalFileSystem(), str(tmp_path / "0.tar"))]
    assert members == [2**40]


def test_shards_of_a_bucket(s3: Seaweed, make_config: MakeConfig) -> None:
    s3.put("listed/0.tar", shard(("a.jpg", b"a" * 200_000), ("a.json", b"{}"), ("b.png", b"b")))
    s3.put("listed/below/1.tar", shard(("a.jpg", b"1")))
    source = open_source(make_config(photos=f"s3://{BUCKET}/listed", endpoint_url=s3.url))
    assert contents(source) == {"0.tar/a.jpg": b"a" * 200_000, "0.tar/b.png": b"b", "below/1.tar/a.jpg": b"1"}


def test_shards_on_a_server_are_listed_several_at_a_time(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{at}.tar" for at in range(8)]
    for name in names:
        (photos / name).write_bytes(shard((f"{name}.jpg", name.encode())))
    together, listed = threading.Barrier(4), list_members

    def waiting(filesystem: pafs.FileSystem, path: str) -> Iterator[tarfile.TarInfo]:
        together.wait(timeout=60)
        return listed(filesystem, path)

    monkeypatch.setattr(jobs.sources.tar_shards, "list_members", waiting)
    far = pafs.SubTreeFileSystem(str(photos), pafs.LocalFileSystem())
    source = TarShards(far, "", names, make_config())
    assert list(contents(source)) == [f"{name}/{name}.jpg" for name in names]


@pytest.mark.parametrize("size", [1 << 63, 1 << 80, -1], ids=str)
def test_a_size_that_no_file_has_ends_its_shard(photos: Path, make_config: MakeConfig, size: int) -> None:
    """Found by the fuzzer: as the number of base 256 that GNU tar writes for what octal digits can not hold."""
    tar = bytearray(shard(("a.jpg", b"a"), ("b.jpg", b"b")))
    header = tar[1024:1536]
    header[124:136] = (size % (1 << 96) | 1 << 95).to_bytes(12, "big") if size > 0 else b"\xff" * 12
    header[156:157] = tarfile.LNKTYPE  # which has no content to be passed over
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[1024:1536] = header
    (photos / "0.tar").write_bytes(tar)
    found = reasons(open_source(make_config()))
    assert found == {"0.tar/a.jpg": "", "0.tar/*": "unreadable"}
