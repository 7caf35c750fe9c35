"""A joined clip has the frames, times and sound of its source."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest

from keyanon_core.clips import index
from keyanon_core.clips.encoding import encode_piece, encode_restored
from keyanon_core.clips.form import CONTAINERS
from keyanon_core.clips.frames import decode_piece, decode_published
from keyanon_core.clips.joining import join_pieces
from keyanon_core.errors import PictureError
from tests.keyanon_core.clips.tiny_clips import TICK, decoded_whole, every, indexed, number_of, pieces_of, tiny_clip

MAX_PIXELS = 10_000_000
MILLISECOND = Fraction(1, 1000)
UNEVEN = [0, 40, 41, 170, 171, 700, 710, 740, 745, 900, 1400, 1401, 2000]
SOUND = {".mp4": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}
VIDEO = {".mp4": "libx264", ".mov": "libx265", ".mkv": "libx264", ".webm": "libvpx-vp9"}
SUFFIXES = sorted(SOUND)


@pytest.fixture(autouse=True)
def pieces_of_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PIECE_FRAMES", 7)


def published_of(path: Path) -> list[bytes]:
    """All pieces of a clip, published as they are."""
    return [encode_piece(decode_piece(piece, MAX_PIXELS), piece.form, piece.until) for piece in pieces_of(path)]


def joined(path: Path, pieces: Sequence[bytes], *, sound: bool = True, suffix: str = "") -> Path:
    """The clip of these pieces, beside their source, with its sound."""
    out = path.with_name(f"joined{suffix or path.suffix}")
    join_pieces(pieces, out, CONTAINERS[out.suffix], str(path) if sound else None)
    return out


def heard(path: Path) -> list[list[tuple[bytes, Fraction]]]:
    """Of each sound track its packets and their times, in seconds."""
    with av.open(str(path)) as opened:
        tracks = {track.index: [] for track in opened.streams.audio}
        for packet in opened.demux():
            if packet.size and packet.stream.index in tracks:
                tracks[packet.stream.index].append((bytes(packet), packet.pts * packet.time_base))
        return list(tracks.values())


def shown(path: Path) -> list[tuple[Fraction, Fraction]]:
    """When each frame's time begins, and when all are over, in seconds."""
    found = indexed(path)
    base = found.form.time_base
    return [*(int(time) * base for time in found.times), (int(found.times[-1]) + found.last) * base]


def duration(path: Path) -> int:
    """Microseconds, of the whole file."""
    with av.open(str(path)) as opened:
        return int(opened.duration)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("times", [UNEVEN, [5000 + time for time in UNEVEN], [0], range(0, 1960, 40)], ids=len)
def test_times_durations_and_sound_are_the_sources(tmp_path: Path, suffix: str, times: Sequence[int]) -> None:
    sound = [SOUND[suffix]] if len(times) > 1 else []
    path = tiny_clip(tmp_path / f"a{suffix}", encoder=VIDEO[suffix], times=times, tick=MILLISECOND, sound=sound)
    out = joined(path, published_of(path))
    assert shown(out)[:-1] == shown(path)[:-1]
    assert suffix == ".webm" or shown(out)[-1] == shown(path)[-1], "of VP9 in WebM no frame's duration is read"
    assert suffix != ".webm" or duration(out) == duration(path)
    assert [number_of(frame) for frame in decoded_whole(out).values()] == list(range(len(times)))
    assert heard(out) == heard(path) and [len(track) > 20 for track in heard(out)] == [True] * len(sound)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("tick", [TICK, Fraction(1, 90_000), Fraction(1, 30_000), Fraction(1, 600)], ids=str)
@pytest.mark.parametrize("start", [0, 777])
def test_times_of_any_base_are_kept_to_the_unit(tmp_path: Path, suffix: str, tick: Fraction, start: int) -> None:
    step = round(Fraction(1001, 30_000) / tick)
    path = tiny_clip(
        tmp_path / f"a{suffix}", times=[start + step * number for number in range(15)], tick=tick, exact_start=True
    )
    assert shown(path)[0] == start * tick
    assert shown(joined(path, published_of(path))) == shown(path)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1", "libx265"])
def test_how_long_the_last_frame_is_shown_is_kept_in_mp4(tmp_path: Path, codec: str) -> None:
    path = tiny_clip(tmp_path / "a.mp4", encoder=codec, times=every(10))
    source = pieces_of(path)
    pieces = published_of(path)[:-1]
    last = source[-1]
    pieces.append(encode_piece(decode_piece(last, MAX_PIXELS), last.form, last.times[-1] + 5 * 512))
    assert duration(joined(path, pieces)) == pytest.approx(1e6 * (last.times[-1] + 5 * 512) * TICK, abs=100)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_is_silent_where_sound_is_not_kept(tmp_path: Path, suffix: str) -> None:
    path = tiny_clip(
        tmp_path / f"a{suffix}",
        encoder=VIDEO[suffix],
        times=range(0, 800, 40),
        tick=MILLISECOND,
        sound=[SOUND[suffix]],
    )
    out = joined(path, published_of(path), sound=False)
    assert heard(out) == [] and shown(out) == shown(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_second_sound_track_stays(tmp_path: Path, suffix: str) -> None:
    path = tiny_clip(
        tmp_path / f"a{suffix}",
        encoder=VIDEO[suffix],
        times=range(0, 1200, 40),
        tick=MILLISECOND,
        sound=[SOUND[suffix]] * 2,
    )
    first, second = heard(path)
    assert first != second
    assert heard(joined(path, published_of(path))) == [first, second]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_said_of_the_source(tmp_path: Path, suffix: str) -> None:
    path = tiny_clip(
        tmp_path / f"a{suffix}",
        encoder=VIDEO[suffix],
        times=range(0, 800, 40),
        tick=MILLISECOND,
        sound=[SOUND[suffix]],
    )
    data = joined(path, published_of(path)).read_bytes()
    assert b"a private title" in path.read_bytes() and b"somebody" in path.read_bytes()
    assert b"a private title" not in data and b"somebody" not in data and b"keyanon" not in data


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_pieces_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    path = tiny_clip(tmp_path / f"a{suffix}", encoder=VIDEO[suffix], times=range(0, 800, 40), tick=MILLISECOND)
    pieces = published_of(path)
    assert joined(path, pieces).read_bytes() == joined(path, pieces).read_bytes()


def test_a_turned_clip_is_upright_and_is_not_turned_again(tmp_path: Path) -> None:
    path = tiny_clip(tmp_path / "a.mp4", rotation=90)
    form = indexed(joined(path, published_of(path))).form
    assert (form.rotation, form.upright_size) == (0, (64, 96))


def test_restored_pieces_are_joined_as_well(tmp_path: Path) -> None:
    path = tiny_clip(tmp_path / "a.mkv", times=range(0, 800, 40), tick=MILLISECOND, sound=["aac"])
    restored = [encode_restored(one, decode_published(one, MAX_PIXELS).pixels) for one in published_of(path)]
    out = joined(path, restored)
    assert shown(out) == shown(path) and heard(out) == heard(path)
    frames = [frame for one in restored for frame in decode_published(one, MAX_PIXELS).frames()]
    assert all((a == b).all() for a, b in zip(decoded_whole(out).values(), frames, strict=True))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "PIECE_FRAMES", 7)
        return published_of(tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4"))


def refused(tmp_path: Path, pieces: Sequence[bytes]) -> str:
    with pytest.raises(PictureError) as failure:
        join_pieces(pieces, tmp_path / "joined.mp4", "mp4")
    assert failure.value.reason == "corrupt"
    return str(failure.value)


def test_pieces_out_of_order_or_twice_are_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    assert "overlap" in refused(tmp_path, pieces[::-1])
    assert "overlap" in refused(tmp_path, [pieces[0], *pieces])


def test_no_pieces_are_refused(tmp_path: Path) -> None:
    assert "at least one" in refused(tmp_path, [])


def test_pieces_of_two_clips_are_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    for number, change in enumerate([{"encoder": "libx265"}, {"size": (64, 96)}, {"size": (96, 66)}]):
        other = published_of(tiny_clip(tmp_path / f"{number}.mp4", **change))
        assert "otherwise" in refused(tmp_path, [pieces[0], *other[1:]])


def test_files_that_are_no_pieces_are_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    clip = tiny_clip(tmp_path / "a.mp4").read_bytes()
    for bad in (b"", b"text", clip, pieces[1][:-50]):
        refused(tmp_path, [bad])
        refused(tmp_path, [pieces[0], bad])


def test_sound_that_can_not_be_read_is_told(tmp_path: Path, pieces: list[bytes]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"text")
    with pytest.raises(PictureError):
        join_pieces(pieces, tmp_path / "joined.mp4", "mp4", str(tmp_path / "a.mp4"))
