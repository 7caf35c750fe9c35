"""The clips that tests and benchmarks of video are made of: what they promise is in the files."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keyanon_core.faces import load_detector
from keyanon_core.faces.detection import box_iou
from keyanon_core.imaging import decode_picture
from tests.made_clips import STORIES, SUFFIXES, actors, frame_times, make_clip

av = pytest.importorskip("av", reason="clips take keyanon[video]")

NEAR = 0.1  # of a face's height: how far its landmarks may be from the truth in the mean
OVERLAP = 0.6  # IoU of their boxes


@pytest.fixture(scope="module")
def portraits(astronaut, grace_hopper):
    return [decode_picture(path.read_bytes()) for path in (astronaut, grace_hopper)]


def decoded(path: Path):
    """Times and upright frames."""
    with av.open(str(path)) as opened:
        frames = list(opened.decode(video=0))
    pixels = [np.ascontiguousarray(np.rot90(one.to_ndarray(format="rgb24"), one.rotation // 90)) for one in frames]
    return tuple(one.pts * one.time_base for one in frames), pixels


def is_same(face, other):
    """By landmarks and box."""
    apart = np.abs(face.landmarks - other.landmarks).mean() / (face.box[3] - face.box[1])
    return apart < NEAR and box_iou(face, other) > OVERLAP


def found_share(clip, frames):
    """Of the faces of which most is visible, those that the detector finds at the truth."""
    detector, hits = load_detector(), []
    for pixels, shown in zip(frames, clip.truth, strict=True):
        found = detector.detect(pixels)
        for one in shown:
            if one.visible > 0.7:
                hits.append(any(is_same(one.face, other) for other in found))
    return np.mean(hits)


@pytest.mark.parametrize("variable_rate", [False, True], ids=["even", "variable"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_decodes_to_the_frames_and_times_promised(tmp_path, portraits, suffix, variable_rate):
    clip = make_clip(tmp_path / f"clip{suffix}", portraits[:1], seconds=1.2, variable_rate=variable_rate)
    times, frames = decoded(clip.path)
    assert times == clip.times
    assert len(frames) == len(clip.truth) == 30
    assert {frame.shape for frame in frames} == {(240, 320, 3)}
    assert (len({after - before for before, after in pairwise(times)}) > 1) == variable_rate
    with av.open(str(clip.path)) as opened:
        assert opened.duration / av.time_base == pytest.approx(clip.seconds, abs=0.03)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_has_a_tone_as_long_as_its_pictures_unless_asked_for_none(tmp_path, portraits, suffix):
    clip = make_clip(tmp_path / f"clip{suffix}", portraits[:1], seconds=0.6)
    with av.open(str(clip.path)) as opened:
        (stream,) = opened.streams.audio
        assert stream.codec_context.name == ("opus" if suffix == ".webm" else "aac")
        sound = np.concatenate([frame.to_ndarray()[0] for frame in opened.decode(stream)])
        rate = stream.rate
    assert len(sound) / rate == pytest.approx(0.6, abs=0.05)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert spectrum.argmax() * rate / len(sound) == pytest.approx(440, abs=5)
    silent = make_clip(tmp_path / f"silent{suffix}", portraits[:1], seconds=0.2, audio=False)
    with av.open(str(silent.path)) as opened:
        assert not opened.streams.audio


@pytest.mark.parametrize("story", STORIES)
def test_the_faces_are_where_the_truth_says(tmp_path, portraits, story):
    clip = make_clip(tmp_path / "clip.mp4", portraits, seconds=1.6, fps=10, story=story)
    assert found_share(clip, decoded(clip.path)[1]) >= 0.9


def test_frames_turned_by_the_display_matrix_are_upright_as_seen(tmp_path, portraits):
    for rotation in (90, 180, 270):
        clip = make_clip(tmp_path / f"{rotation}.mov", portraits, seconds=0.2, story="still", rotation=rotation)
        with av.open(str(clip.path)) as opened:
            frame = next(opened.decode(video=0))
            assert frame.rotation % 360 == rotation
            assert (frame.width, frame.height) == ((240, 320) if rotation % 180 else (320, 240))
        assert found_share(clip, decoded(clip.path)[1]) == 1


def test_frames_are_decoded_in_another_order_than_seen(tmp_path, portraits):
    """As a camera's are, so that what reads clips meets it."""
    clip = make_clip(tmp_path / "clip.mp4", portraits, seconds=1)
    with av.open(str(clip.path)) as opened:
        order = [packet.pts for packet in opened.demux(video=0) if packet.size]
    assert order != sorted(order)


def test_equal_arguments_give_equal_frames_and_another_seed_others(tmp_path, portraits):
    same, again, other = (
        decoded(make_clip(tmp_path / f"{name}.mkv", portraits, seconds=0.2, seed=seed).path)[1]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)


def test_who_crosses_hides_the_other_and_comes_out_on_the_other_side(tmp_path, portraits):
    truth = make_clip(tmp_path / "clip.mp4", portraits, story="crossing", fps=10).truth
    ways = np.array([[one.landmarks[:, 0].mean() for one in shown] for shown in truth])
    assert np.sign(ways[0, 0] - ways[0, 1]) == -np.sign(ways[-1, 0] - ways[-1, 1])
    hidden, before = np.array([[one.visible for one in shown] for shown in truth]).T
    assert hidden.min() < 0.2
    assert hidden[0] == hidden[-1] == 1
    assert (before == 1).all()


def test_who_leaves_is_gone_for_a_while_and_comes_back(tmp_path, portraits):
    clip = make_clip(tmp_path / "clip.mp4", portraits, story="leaving", fps=10)
    shares = [shown[0].visible for shown in clip.truth]
    assert shares[0] == shares[-1] == 1
    assert min(shares) == 0
    x0, _, x1, _ = clip.truth[int(np.argmin(shares))][0].box
    assert x1 < 0 or x0 > 319


def test_a_cut_changes_background_and_places_in_the_middle(tmp_path, portraits):
    clip = make_clip(tmp_path / "clip.mp4", portraits, story="cut", fps=10, seconds=2)
    assert clip.cuts == (10,)
    _, frames = decoded(clip.path)
    change = np.array(
        [
            np.abs(after.astype(int) - before)[:20].mean()  # above the heads
            for before, after in pairwise(frames)
        ]
    )
    assert change.argmax() == 9
    assert change[9] > 5 * np.delete(change, 9).max()
    jumps = [np.abs(after[0].landmarks - before[0].landmarks).max() for before, after in pairwise(clip.truth)]
    assert np.argmax(jumps) == 9
    assert {len(shown) for shown in clip.truth} == {2}


def test_heads_turn_by_thirty_degrees_either_way():
    for actor in actors("turning", 2, (320, 240), seconds=2.0):
        tilts = [actor.pose(time).tilt for time in np.linspace(0, 2, 101)]
        assert max(tilts) == pytest.approx(30, abs=0.5)
        assert min(tilts) == pytest.approx(-30, abs=0.5)


@pytest.mark.parametrize("story", STORIES)
def test_ways_are_smooth_but_for_a_cut(story):
    for actor in actors(story, 5, (640, 360), seconds=4.0):
        inside = np.arange(0, 4, 1 / 100)[:-1]
        poses = np.array([actor.pose(time) for time in inside if actor.is_there(time)])
        assert np.abs(np.diff(poses, 2, axis=0)).max() < 1  # px or degrees in a hundredth of a second


def test_times_rise_in_whole_ticks_and_fill_the_clip():
    tick = Fraction(1, 1000)
    assert frame_times(1.0, 4, tick, None) == (0, Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
    times = frame_times(3.0, 30, tick, 5)
    steps = np.diff([float(time) for time in times])
    assert len(times) == 90
    assert all((time / tick).denominator == 1 for time in times)
    assert 0.01 < steps.min() < steps.max() < 0.06
    assert times[0] == 0
    assert 2.9 < times[-1] < 3


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("clip.avi", {}, r"clip\.avi: a clip's suffix is one of \.mp4"),
        ("clip.mp4", {"size": (321, 240)}, "even sides"),
        ("clip.mp4", {"story": "dancing"}, "no story 'dancing'; choose one of moving"),
    ],
)
def test_what_can_not_be_made_is_refused(tmp_path, portraits, name, options, said):
    with pytest.raises(ValueError, match=said):
        make_clip(tmp_path / name, portraits[:1], **options)


def test_a_portrait_without_one_face_is_named(tmp_path, portraits):
    with pytest.raises(ValueError, match="portrait 1: 0 faces were found"):
        make_clip(tmp_path / "clip.mp4", [portraits[0], np.zeros((80, 80, 3), np.uint8)])
