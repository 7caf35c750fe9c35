"""What is read of a clip before any of it is worked on, and how it is cut into pieces."""

import io
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from keyanon_core.clips import index
from keyanon_core.clips.form import CONTAINERS, ClipForm, Colours
from keyanon_core.clips.frames import decode_piece, decode_published
from keyanon_core.clips.index import frames_of_piece, index_clip
from keyanon_core.clips.matroska import missing_bytes
from keyanon_core.clips.piece import Piece, read_piece
from keyanon_core.errors import PictureError
from tests.keyanon_core.clips.tiny_clips import OPEN_GROUPS, every, indexed, tiny_clip

MILLISECOND = Fraction(1, 1000)
UNEVEN = [0, 40, 41, 170, 171, 700, 710, 740, 745, 900, 1400, 1401, 3000]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames of H.264, 25 a second, some of them decoded before they are seen."""
    return tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4")


def test_times_come_in_the_order_in_which_frames_are_seen(clip: Path) -> None:
    found = indexed(clip)
    assert found.times.tolist() == every(20) and found.last == 512
    assert sorted(found.packets) == every(20) and found.packets.tolist() != every(20), "decoded in another order"
    assert found.is_key.sum() == 2 and found.sizes.min() > 0
    assert found.seconds == pytest.approx(np.arange(20) / 25)


def test_the_form_is_what_the_file_says(tmp_path: Path) -> None:
    colours = Colours(space=1, range=2, primaries=1, transfer=1)
    path = tiny_clip(tmp_path / "a.mov", encoder="libx265", aspect=Fraction(4, 3), colours=colours, rotation=90)
    form = indexed(path).form
    assert (form.container, form.codec, form.decoder, form.encoder) == ("mov", "hevc", "hevc", "libx265")
    assert (form.time_base, form.width, form.height) == (Fraction(1, 12_800), 96, 64)
    assert (form.aspect, form.colours, form.rotation, form.upright_size) == (Fraction(4, 3), colours, 90, (64, 96))
    assert ClipForm.from_dict(form.to_dict()) == form


@pytest.mark.parametrize(
    ("name", "encoder"), [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")]
)
@pytest.mark.parametrize("times", [UNEVEN, [5000 + time for time in UNEVEN], [0], [5000]], ids=len)
def test_uneven_late_and_single_times_are_kept(tmp_path: Path, name: str, encoder: str, times: list[int]) -> None:
    path = tiny_clip(tmp_path / name, encoder=encoder, times=times, tick=MILLISECOND)
    assert indexed(path).times.tolist() == times


def test_sound_tracks_are_counted(tmp_path: Path) -> None:
    assert indexed(tiny_clip(tmp_path / "a.mp4", sound=["aac", "libmp3lame"])).audio == 2


def test_every_frame_is_in_one_piece_that_begins_with_a_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "PIECE_FRAMES", 7)
    found = indexed(tiny_clip(tmp_path / "a.mp4", times=every(50), options=OPEN_GROUPS))
    keys = set(found.packets[found.is_key].tolist())
    cuts = list(found.cuts())
    assert [time for cut in cuts for time in cut.times] == every(50)
    assert [len(cut.times) for cut in cuts] == [7] * 7 + [1]
    assert [cut.until for cut in cuts] == [*(cut.times[0] for cut in cuts[1:]), 50 * 512]
    for cut in cuts:
        assert cut.packets[0][0] in keys and cut.packets[0][0] <= cut.times[0]
        assert set(cut.times) <= {time for time, _ in cut.packets}
    assert cuts[3].packets[0][0] > 0, "not from the clip's beginning"
    assert list(found.cuts()) == cuts


def test_a_piece_has_as_many_frames_as_may_be_held_at_once() -> None:
    def frames(width: int, height: int, rotation: int = 0) -> int:
        return frames_of_piece(ClipForm("mp4", "h264", "h264", b"", MILLISECOND, width, height, rotation))

    assert frames(96, 64) == 32
    assert frames(1920, 1080) == 15
    assert frames(16_384, 16_384) == 1
    assert frames(16, 4096) == 15 and frames(16, 4096, 90) == 32, "a strip is no higher than a picture may be"


def test_a_file_is_read_like_a_path(clip: Path) -> None:
    assert index_clip(io.BytesIO(clip.read_bytes()), "mp4").times.tolist() == every(20)


@pytest.mark.parametrize("suffix", sorted(CONTAINERS))
@pytest.mark.parametrize("data", [b"", b"no video at all\n" * 50, bytes(1000)], ids=["empty", "text", "zeros"])
def test_what_is_no_video_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(PictureError, match="can not be read as a video") as failure:
        indexed(tmp_path / f"a{suffix}")
    assert failure.value.reason == "not_a_clip" and str(tmp_path) not in str(failure.value)


def test_sound_without_a_picture_is_refused(tmp_path: Path) -> None:
    with (
        av.open(str(tiny_clip(tmp_path / "a.mp4", sound=["aac"]))) as both,
        av.open(str(tmp_path / "b.mp4"), "w") as out,
    ):
        track = out.add_stream_from_template(both.streams.audio[0])
        for packet in both.demux(both.streams.audio[0]):
            if packet.size:
                packet.stream = track
                out.mux(packet)
    with pytest.raises(PictureError, match="no video track") as failure:
        indexed(tmp_path / "b.mp4")
    assert failure.value.reason == "not_a_clip"


def test_a_clip_whose_end_is_missing_is_refused(clip: Path, tmp_path: Path) -> None:
    """Its table of frames lies at its beginning, as cameras that stream and most web sites write it."""
    whole = tmp_path / "whole.mp4"
    with av.open(str(clip)) as source, av.open(str(whole), "w", options={"movflags": "+faststart"}) as out:
        track = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = track
                out.mux(packet)
    assert len(indexed(whole).times) == 20
    data = whole.read_bytes()
    for missing in (len(data) // 4, 3):
        (tmp_path / "part.mp4").write_bytes(data[:-missing])
        with pytest.raises(PictureError) as failure:
            indexed(tmp_path / "part.mp4")
        assert failure.value.reason == "truncated", missing


def test_a_clip_without_its_table_of_frames_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "part.mp4").write_bytes(clip.read_bytes()[:-200])
    with pytest.raises(PictureError) as failure:
        indexed(tmp_path / "part.mp4")
    assert failure.value.reason == "not_a_clip"


@pytest.mark.parametrize(("name", "encoder"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_matroska_whose_end_is_missing_is_refused(tmp_path: Path, name: str, encoder: str, share: float) -> None:
    path = tiny_clip(tmp_path / name, encoder=encoder, times=range(0, 1200, 40), tick=MILLISECOND)
    assert len(indexed(path).times) == 30
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PictureError) as failure:
        indexed(path)
    assert failure.value.reason == "truncated"
    with path.open("rb") as file:
        file.seek(7)
        assert missing_bytes(file) == len(data) - path.stat().st_size and file.tell() == 7, "it stays where it is"


@pytest.mark.parametrize("rest", ["", "80", "80 18538067", "80 18538067 ff", "80 18538067 00 01 01 01 01 01 01 01 01"])
def test_matroska_that_does_not_say_its_size_misses_nothing(rest: str) -> None:
    assert missing_bytes(io.BytesIO(bytes.fromhex("1a45dfa3" + rest))) == 0


def test_matroska_that_was_streamed_and_does_not_say_its_size_is_read(tmp_path: Path) -> None:
    path = tiny_clip(tmp_path / "a.mkv", times=range(0, 1200, 40), tick=MILLISECOND)
    data = path.read_bytes()
    at = data.index(bytes.fromhex("18538067")) + 4
    assert data[at] == 1, "a size of eight bytes"
    path.write_bytes(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :])
    assert len(indexed(path).times) == 30


def test_a_codec_that_nobody_knows_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes().replace(b"avc1", b"zzz9"))
    with pytest.raises(PictureError, match="codec") as failure:
        indexed(tmp_path / "a.mp4")
    assert failure.value.reason == "unsupported"
    with pytest.raises(PictureError, match="codec") as failure:
        decode_published((tmp_path / "a.mp4").read_bytes(), 10_000_000)
    assert failure.value.reason == "unsupported"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_list_of_other_files_is_no_clip(clip: Path, tmp_path: Path, name: str) -> None:
    """FFmpeg would read what it names, be it not the user's."""
    shutil.copy(clip, tmp_path / "other.mp4")
    (tmp_path / name).write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(PictureError) as failure:
        indexed(tmp_path / name)
    assert failure.value.reason == "not_a_clip"


def test_frames_that_an_edit_list_hides_are_not_published(tmp_path: Path) -> None:
    """As of a clip whose begin a phone has cut away: its frames lie in the file, and no player shows them."""
    path, hidden, shown = tmp_path / "cut.mp4", 25, 30
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as opened:
        stream = opened.add_stream("libx264", rate=25, options={"bf": "0", "g": "20", "crf": "10", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(hidden + shown):
            grey = np.full((64, 96, 3), 20 + 4 * number if number >= hidden else 255, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
                opened.mux(packet)
        for packet in stream.encode(None):
            packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
            opened.mux(packet)
    found = index_clip(str(path), "mp4")
    assert len(found.times) == shown and found.times[0] == 0 and found.is_hidden.any()
    (cut,) = found.cuts()
    strip = decode_piece(Piece.from_bytes(read_piece(str(path), cut)), 10**7)
    assert [round(float(frame.mean()) / 4) for frame in strip.frames()] == [5 + hidden + at for at in range(shown)]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PictureError) as caught:
        index_clip(str(path), "mp4")
    assert caught.value.reason in ("truncated", "not_a_clip")
