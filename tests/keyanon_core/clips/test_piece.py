"""Packets of a few frames as they travel to who works on them."""

import json
from pathlib import Path

import pytest

from keyanon_core.clips import index
from keyanon_core.clips.piece import MAGIC, Piece, is_piece, read_piece
from keyanon_core.errors import PictureError
from tests.keyanon_core.clips.tiny_clips import every, indexed, tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4", times=every(30))


def headed(header: object, data: bytes = b"") -> bytes:
    """Bytes that begin like a piece."""
    said = json.dumps(header).encode()
    return MAGIC + len(said).to_bytes(8) + said + data


@pytest.fixture(scope="module")
def encoded(clip: Path) -> bytes:
    return read_piece(str(clip), next(indexed(clip).cuts()))


def test_a_piece_survives_its_bytes(encoded: bytes) -> None:
    piece = Piece.from_bytes(encoded)
    assert piece.times == tuple(every(30)) and piece.until == 30 * 512
    assert piece.to_bytes() == encoded and is_piece(encoded)


def test_a_piece_holds_what_its_cut_says(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PIECE_FRAMES", 7)
    for cut in indexed(clip).cuts():
        piece = Piece.from_bytes(read_piece(str(clip), cut))
        assert (piece.form, piece.times, piece.until) == (cut.form, cut.times, cut.until)
        assert tuple((time, len(data)) for time, data in piece.packets) == cut.packets
        assert tuple((time, len(data)) for time, data in piece.following) == cut.following
        with clip.open("rb") as file:
            assert read_piece(file, cut) == piece.to_bytes(), "from an open file as from a path"


@pytest.mark.parametrize("change", [{"times": every(20)}, {"encoder": "libx265"}, {"options": {"bf": "0", "g": "5"}}])
def test_a_clip_that_is_not_what_it_was_is_refused(clip: Path, tmp_path: Path, change: dict[str, object]) -> None:
    cut = next(indexed(clip).cuts())
    tiny_clip(tmp_path / "a.mp4", **{"times": every(30), **change})
    with pytest.raises(PictureError) as failure:
        read_piece(str(tmp_path / "a.mp4"), cut)
    assert failure.value.reason == "changed"


@pytest.mark.parametrize("data", [b"", b"text", None], ids=["empty", "text", "missing"])
def test_a_clip_that_can_not_be_read_any_more_is_refused(clip: Path, tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(PictureError) as failure:
        read_piece(str(tmp_path / "a.mp4"), next(indexed(clip).cuts()))
    assert failure.value.reason == "unreadable" and str(tmp_path) not in str(failure.value)


def hostile(encoded: bytes) -> dict[str, bytes]:
    at = len(MAGIC) + 8
    length = int.from_bytes(encoded[len(MAGIC) : at])
    header, data = json.loads(encoded[at : at + length]), encoded[at + length :]
    form, packets = header["form"], header.get("packets", [])

    def changed(**other: object) -> bytes:
        return headed(header | other, data)

    return {
        "empty": b"",
        "a picture": b"\x89PNG\r\n\x1a\n",
        "nothing but the beginning": MAGIC,
        "a header beyond its end": MAGIC + (2**63).to_bytes(8) + b"{}",
        "no JSON": MAGIC + (4).to_bytes(8) + b"\xff\xfe{}",
        "deep JSON": MAGIC + (200_000).to_bytes(8) + b"[" * 200_000,
        "another type": headed([1, 2]),
        "nothing in it": headed({}),
        "its last bytes are missing": encoded[:-1],
        "bytes after its end": encoded + b"\0",
        "packets beyond its end": changed(packets=[[0, 10**12]]),
        "packets of less than nothing": changed(packets=[[0, -1]]),
        "a packet of nothing": changed(packets=[*packets, [0, 0]]),
        "packets that lie one on the other": changed(packets=[*packets, [0, -1], [0, 1]]),
        "packets of a fraction": changed(packets=[[0, 1.5]]),
        "more packets after it than there are": changed(following=10**6),
        "less than no packets after it": changed(following=-1),
        "packets after it that are a text": changed(following="1"),
        "an infinite time": changed(until=float("inf")),
        "a time beyond 64 bits": changed(times=[2**70], until=2**70 + 1),
        "no frame": changed(times=[]),
        "times that fall": changed(times=every(30)[::-1]),
        "times that are over before they begin": changed(until=-5),
        "a time base of nothing": changed(form=form | {"time_base": [1, 0]}),
        "a time base that is 0": changed(form=form | {"time_base": [0, 1]}),
        "an aspect below 0": changed(form=form | {"aspect": [-1, 1]}),
        "an unknown container": changed(form=form | {"container": "avi"}),
        "a width of text": changed(form=form | {"width": "wide"}),
        "a width of nothing": changed(form=form | {"width": 0}),
        "a height below 0": changed(form=form | {"height": -64}),
        "a decoder that is no text": changed(form=form | {"decoder": 7}),
        "a decoder beyond a name's end": changed(form=form | {"decoder": "h264\0"}),
        "a codec that is a list": changed(form=form | {"codec": []}),
        "no base64": changed(form=form | {"extradata": "a"}),
        "another field": changed(form=form | {"more": 1}),
        "a rotation of 45": changed(form=form | {"rotation": 45}),
        "a colour that is infinite": changed(form=form | {"colours": {"space": float("inf")}}),
        "colours that are a list": changed(form=form | {"colours": [1]}),
    }


HOSTILE = sorted(hostile(headed({"form": {}})))


@pytest.mark.parametrize("what", HOSTILE)
def test_bytes_that_are_no_piece_are_refused(encoded: bytes, what: str) -> None:
    with pytest.raises(PictureError) as failure:
        Piece.from_bytes(hostile(encoded)[what])
    assert failure.value.reason == "corrupt"
