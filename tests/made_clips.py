"""Video files made of photographs of faces, for which it is known where each person is in every frame.

There are few real clips that one may use, and none that says of every frame who is where and how much of the face is seen. So
the heads of portraits move before a background, in smooth ways, and are encoded as cameras and editors encode: with frames that
are decoded before they are seen, a sound track, a time base of the container's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import cv2
import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from keyanon_core.faces import Face, load_detector
from keyanon_core.faces.detection import Detector

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Story = Literal["moving", "crossing", "leaving", "cut", "turning", "still"]

STORIES: Final[tuple[Story, ...]] = get_args(Story)
SUFFIXES: Final = {
    ".mp4": ("libx264", "aac", Fraction(1, 90_000)),
    ".mov": ("libx264", "aac", Fraction(1, 90_000)),
    ".mkv": ("libx264", "aac", Fraction(1, 1000)),
    ".webm": ("libvpx-vp9", "libopus", Fraction(1, 1000)),
}
"""Encoders of pictures and sound, and the seconds of which all times of frames are multiples."""

ENCODER_OPTIONS: Final = {
    "libx264": {"crf": "18", "preset": "veryfast", "threads": "1"},
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6", "threads": "1"},
}
GROUP: Final = 24  # frames between key frames
SOUND_RATE, TONE, LOUDNESS = 48_000, 440.0, 0.2  # Hz, Hz, of full scale

HEAD: Final = (0.68, 0.66)  # half axes of the ellipse that is cut out, in widths and heights of the face's box
SOFT_EDGE: Final = 0.05  # standard deviation of its edge, in heights
SAMPLES: Final = 48  # points a side by which the visible share of a face is told
HALF: Final = 0.5
FULL_TILT: Final = 30.0  # degrees
KNOTS: Final = 5  # places of a way, between which it is smooth
WAYS, ACROSS, SURROUNDINGS, STEPS = range(4)  # what chance is drawn for, each for itself


class Shown(NamedTuple):
    """A person in a frame. person: number of the portrait. box: (x0, y0, x1, y1) px, about the turned face; may reach beyond the
    frame. landmarks: (5, 2) float64 px. visible: share of the face that is inside the frame and behind nobody.
    """

    person: int
    box: tuple[float, float, float, float]
    landmarks: Floats
    visible: float

    @property
    def face(self) -> Face:
        """As a detector would say it."""
        return Face(self.box, self.landmarks, 1.0)


class Pose(NamedTuple):
    """x, y: px of the middle of a face's box. size: px of its height. tilt: degrees, clockwise as seen."""

    x: float
    y: float
    size: float
    tilt: float


@dataclass(frozen=True, eq=False)
class Actor:
    """One person moving through a clip. person: number of the portrait. knots: (k, 5) float64, k > 1 rows of seconds and a pose,
    in order of time, smoothly passed through. stage: seconds from which, and before which, the person is there at all.
    """

    person: int
    knots: Floats
    stage: tuple[float, float] = (-math.inf, math.inf)

    def is_there(self, seconds: float) -> bool:
        return self.stage[0] <= seconds < self.stage[1]

    def pose(self, seconds: float) -> Pose:
        """Before the first knot and after the last one it is theirs."""
        times = self.knots[:, 0]
        return Pose(*PchipInterpolator(times, self.knots[:, 1:])(np.clip(seconds, times[0], times[-1])).tolist())

    @property
    def largest(self) -> float:
        """px; the size of its face where that is largest."""
        return float(self.knots[:, 3].max())


@dataclass(frozen=True, eq=False)
class MadeClip:
    """A file and what it shows. times: of each frame, in seconds, as its container says them. truth: of each frame who is on
    stage, those behind before those in front, also where nothing of them is seen. cuts: frames with which a new scene begins.
    size: (width, height) px as it is seen. seconds: its duration.
    """

    path: Path
    times: tuple[Fraction, ...]
    truth: tuple[tuple[Shown, ...], ...]
    cuts: tuple[int, ...]
    size: tuple[int, int]
    seconds: float


def make_clip(
    path: Path,
    portraits: Sequence[Pixels],
    *,
    seconds: float = 2.0,
    fps: float = 25.0,
    size: tuple[int, int] = (320, 240),
    variable_rate: bool = False,
    rotation: Literal[0, 90, 180, 270] = 0,
    audio: bool = True,
    story: Story = "moving",
    seed: int = 0,
    backgrounds: Sequence[Pixels] = (),
) -> MadeClip:
    """Make a clip of two frames or more. Its path's suffix, of SUFFIXES, chooses container and codecs; equal arguments give
    equal frames.

    portraits: (H, W, 3) uint8, of one face each; the later ones pass in front of the earlier ones. fps: in the mean, where the
    rate is variable. size: even px as the clip is seen. rotation: degrees of its display matrix: the stored frames are turned
    by so much clockwise against what is seen. story: "moving", each on a way of its own, growing and shrinking; "crossing",
    two and two pass each other; "leaving", the first one leaves the frame and comes back, and the others move; "cut", in the
    middle a new scene with another background begins; "turning", heads tilt by 30 degrees either way; "still". backgrounds:
    photographs, one for each scene in turn; without any, colours that nothing in the world has.

    Raises ValueError.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: a clip's suffix is one of {', '.join(SUFFIXES)}")
    if size[0] % 2 or size[1] % 2:
        raise ValueError(f"frames of {size[0]} x {size[1]} px: H.264 and VP9 with halved chroma take even sides")
    heads = [_Head.of(pixels, number) for number, pixels in enumerate(portraits)]
    cast = actors(story, len(heads), size, seconds, seed)
    times = frame_times(seconds, fps, SUFFIXES[path.suffix][2], seed if variable_rate else None)
    cuts = (sum(time < seconds / 2 for time in times),) if story == "cut" else ()
    scenes = [
        cv2.resize(backgrounds[scene % len(backgrounds)], size, interpolation=cv2.INTER_AREA).astype(np.float32)
        if backgrounds
        else _background(size, seed, scene)
        for scene in range(1 + len(cuts))
    ]
    heads = [head.reduced_for(max(one.largest for one in cast if one.person == at)) for at, head in enumerate(heads)]
    frames, truth = list[Pixels](), list[tuple[Shown, ...]]()
    for number, time in enumerate(times):
        background = scenes[sum(number >= cut for cut in cuts)]
        frame, shown = _frame(background, [(heads[one.person], one) for one in cast], float(time))
        frames.append(frame)
        truth.append(shown)
    _write(path, frames, times, seconds, rotation, audio)
    return MadeClip(path, times, tuple(truth), cuts, size, seconds)


def frame_times(seconds: float, fps: float, tick: Fraction, seed: int | None) -> tuple[Fraction, ...]:
    """Of each frame, rising from 0, multiples of a tick. seed: with it steps of unequal length; None for even ones."""
    count = max(round(seconds * fps), 1)
    steps = np.ones(count) if seed is None else np.random.default_rng([seed, STEPS]).uniform(0.5, 2.0, count)
    starts = np.concatenate([[0.0], np.cumsum(steps)[:-1]]) / steps.sum() * seconds
    return tuple(round(start / float(tick)) * tick for start in starts)


def actors(story: Story, people: int, size: tuple[int, int], seconds: float, seed: int = 0) -> list[Actor]:
    """Who moves how, those in front last. Raises ValueError for a story that is none."""
    if story == "cut":
        halves = [(-math.inf, seconds / 2), (seconds / 2, math.inf)]
        return [
            Actor(one.person, one.knots, stage)
            for scene, stage in enumerate(halves)
            for one in _scene(_moving, people, size, seconds, np.random.default_rng([seed, WAYS, scene]))
        ]
    told: dict[str, _Way] = {
        "moving": _moving,
        "crossing": _crossing,
        "leaving": _leaving,
        "turning": _turning,
        "still": _still,
    }
    if story not in told:
        raise ValueError(f"no story {story!r}; choose one of {', '.join(STORIES)}")
    return _scene(told[story], people, size, seconds, np.random.default_rng([seed, WAYS, 0]))


@dataclass(frozen=True)
class _Home:
    """Where a person is at home: in a column of the frame of its own. person: its number among so many. room: px, size of a face
    that fits there.
    """

    person: int
    people: int
    x: float
    y: float
    room: float
    frame: tuple[int, int]


_Way = Callable[[_Home, np.random.Generator], Floats]
"""(k, 4) poses, k of them in even steps of time."""


def _scene(way: _Way, people: int, size: tuple[int, int], seconds: float, rng: np.random.Generator) -> list[Actor]:
    """Everybody in a column of their own, in an order that chance chooses but for two who are to cross."""
    columns = np.arange(people) if way is _crossing else rng.permutation(people)
    result = []
    for person in range(people):
        middle = (columns[person] + 0.5) / people * size[0]
        room = min(0.5 * size[1], 0.9 * size[0] / people)
        poses = way(_Home(person, people, middle, size[1] / 2, room, size), rng)
        times = np.linspace(0.0, seconds, len(poses))[:, None]
        result.append(Actor(person, np.hstack([times, poses])))
    return result


def _still(home: _Home, rng: np.random.Generator) -> Floats:
    pose = [home.x, home.y, home.room * 0.85, rng.uniform(-8, 8)]
    return np.array([pose, pose])


def _moving(home: _Home, rng: np.random.Generator) -> Floats:
    return np.stack(
        [
            home.x + home.room * rng.uniform(-0.3, 0.3, KNOTS),
            home.y + home.room * rng.uniform(-0.4, 0.4, KNOTS),
            home.room * rng.uniform(0.65, 1.0, KNOTS),
            rng.uniform(-8, 8, KNOTS),
        ],
        1,
    )


def _crossing(home: _Home, rng: np.random.Generator) -> Floats:
    """Persons 0 and 1 change sides, so do 2 and 3 below them; an odd one moves alone."""
    if home.person == home.people - 1 and home.people % 2:
        return _moving(home, rng)
    lanes = -(-home.people // 2)
    width, height = home.frame
    reach = min(0.55 * height / lanes, 0.3 * width)
    x = np.linspace(0.2, 0.8, KNOTS) * width
    y = (home.person // 2 + 0.5) / lanes * height + reach * rng.uniform(-0.05, 0.05, KNOTS)
    size = reach * rng.uniform(0.8, 1.0, KNOTS)
    return np.stack([x[:: -1 if home.person % 2 else 1], y, size, rng.uniform(-8, 8, KNOTS)], 1)


def _leaving(home: _Home, rng: np.random.Generator) -> Floats:
    poses = _moving(home, rng)
    if home.person == 0:  # out by the nearer side
        out = -home.room if home.x <= home.frame[0] / 2 else home.frame[0] + home.room
        poses[:, 0] = [home.x, home.x, out, home.x, home.x]
    return poses


def _turning(home: _Home, rng: np.random.Generator) -> Floats:
    poses = np.repeat(_still(home, rng)[:1], KNOTS, 0)
    poses[:, 3] = np.array([0, FULL_TILT, 0, -FULL_TILT, 0]) * rng.choice([-1, 1])
    return poses


@dataclass(frozen=True, eq=False)
class _Head:
    """A portrait. pixels: (H, W, 3) float32. alpha: (H, W) float32, what of it is the head. face: in px of it."""

    pixels: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]
    face: Face

    @classmethod
    def of(cls, pixels: Pixels, number: int) -> "_Head":
        """Raises ValueError."""
        found = _detector().detect(pixels)
        if len(found) != 1:
            raise ValueError(f"portrait {number}: {len(found)} faces were found; give pictures of one face each")
        x0, y0, x1, y1 = found[0].box
        alpha = np.zeros(pixels.shape[:2], np.float32)
        centre = (round((x0 + x1) / 2), round((y0 + y1) / 2 - 0.04 * (y1 - y0)))
        axes = (round((x1 - x0) * HEAD[0]), round((y1 - y0) * HEAD[1]))
        cv2.ellipse(alpha, centre, axes, 0, 0, 360, 1.0, -1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), max(SOFT_EDGE * (y1 - y0), 0.5))
        return cls(pixels.astype(np.float32), np.asarray(alpha, np.float32), found[0])

    @property
    def height(self) -> float:
        return self.face.box[3] - self.face.box[1]

    @property
    def middle(self) -> Floats:
        x0, y0, x1, y1 = self.face.box
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2])

    def reduced_for(self, largest: float) -> "_Head":
        """The same, averaged down so that a face of `largest` px is not reduced any more; the same in all frames of a clip."""
        scale = min(largest / self.height, 1.0)
        rows, columns = (max(round(side * scale), 1) for side in self.alpha.shape)
        ratio = np.array([columns / self.alpha.shape[1], rows / self.alpha.shape[0]])
        pixels, alpha = (
            np.asarray(cv2.resize(one, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
            for one in (self.pixels, self.alpha)
        )
        corners = (np.reshape(self.face.box, (2, 2)) + 0.5) * ratio - 0.5
        x0, y0, x1, y1 = corners.ravel().tolist()
        return _Head(pixels, alpha, Face((x0, y0, x1, y1), (self.face.landmarks + 0.5) * ratio - 0.5, 1.0))

    def affine(self, pose: Pose) -> Floats:
        """(2, 3), from px of the portrait to px of the frame."""
        scale, angle = pose.size / self.height, math.radians(pose.tilt)
        linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return np.hstack([linear, (np.array([pose.x, pose.y]) - linear @ self.middle)[:, None]])


@cache
def _detector() -> Detector:
    return load_detector()


def _frame(
    background: npt.NDArray[np.float32], cast: Sequence[tuple[_Head, Actor]], seconds: float
) -> tuple[Pixels, tuple[Shown, ...]]:
    """One frame, and who is in it."""
    canvas = background.copy()
    height, width = canvas.shape[:2]
    placed = list[tuple[int, _Head, Floats]]()
    alphas = list[npt.NDArray[np.float32]]()
    for head, actor in cast:
        if not actor.is_there(seconds):
            continue
        affine = head.affine(actor.pose(seconds))
        alpha = np.asarray(cv2.warpAffine(head.alpha, affine, (width, height)), np.float32)
        drawn = cv2.warpAffine(head.pixels, affine, (width, height), borderMode=cv2.BORDER_REPLICATE)
        canvas += (drawn - canvas) * alpha[..., None]
        placed.append((actor.person, head, affine))
        alphas.append(alpha)
    shown = []
    for number, (person, head, affine) in enumerate(placed):
        hidden = np.zeros((height, width), np.bool_)
        for alpha in alphas[number + 1 :]:
            hidden |= alpha > HALF
        landmarks = head.face.landmarks @ affine[:, :2].T + affine[:, 2]
        shown.append(Shown(person, _box(head, affine), landmarks, _visible(head, affine, hidden)))
    return np.rint(canvas).astype(np.uint8), tuple(shown)


def _box(head: _Head, affine: Floats) -> tuple[float, float, float, float]:
    """The bounds of the ellipse in the face's box, moved with it: those of a face, not of its box's corners."""
    x0, y0, x1, y1 = head.face.box
    half = np.hypot(affine[:, 0] * (x1 - x0), affine[:, 1] * (y1 - y0)) / 2
    centre = affine[:, :2] @ head.middle + affine[:, 2]
    (left, top), (right, bottom) = centre - half, centre + half
    return float(left), float(top), float(right), float(bottom)


def _visible(head: _Head, affine: Floats, hidden: npt.NDArray[np.bool_]) -> float:
    """Share of the ellipse in a face's box that lies in the frame and is not hidden."""
    x0, y0, x1, y1 = head.face.box
    across, down = np.meshgrid(*[(np.arange(SAMPLES) + 0.5) / SAMPLES * 2 - 1] * 2)
    inside = across**2 + down**2 < 1
    points = np.stack([across[inside] * (x1 - x0), down[inside] * (y1 - y0)], 1) / 2 + head.middle
    columns, rows = np.rint(points @ affine[:, :2].T + affine[:, 2]).astype(int).T
    there = (rows >= 0) & (columns >= 0) & (rows < hidden.shape[0]) & (columns < hidden.shape[1])
    return float(np.count_nonzero(~hidden[rows[there], columns[there]]) / len(points))


def _background(size: tuple[int, int], seed: int, scene: int) -> npt.NDArray[np.float32]:
    """(H, W, 3) float32: colours that change slowly, with ever finer and weaker detail, in which nothing looks like a face."""
    rng = np.random.default_rng([seed, SURROUNDINGS, scene])
    result = np.full((size[1], size[0], 3), rng.uniform(90, 160, 3), np.float32)
    cell = max(size) / 2
    strength = 40.0
    while cell >= 2:
        grid = rng.normal(0, strength, (math.ceil(size[1] / cell) + 1, math.ceil(size[0] / cell) + 1, 3))
        result += cv2.resize(grid.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        cell, strength = cell / 2, strength * 0.6
    return np.clip(result, 0, 255)


def _write(
    path: Path, frames: Sequence[Pixels], times: Sequence[Fraction], seconds: float, rotation: int, audio: bool
) -> None:
    import av  # an extra: who only looks at the truth needs it not

    video_codec, sound_codec, tick = SUFFIXES[path.suffix]
    options = {"fflags": "+bitexact"}
    if path.suffix in (".mp4", ".mov"):
        options["video_track_timescale"] = str(tick.denominator)
    with av.open(str(path), "w", options=options) as opened:
        stream = opened.add_stream(video_codec, options=dict(ENCODER_OPTIONS[video_codec]))
        stored = [np.ascontiguousarray(np.rot90(frame, -rotation // 90)) for frame in frames]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", GROUP
        stream.codec_context.time_base = tick
        stream.codec_context.framerate = Fraction(len(frames) / seconds).limit_denominator(1001)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = opened.add_stream(sound_codec, rate=SOUND_RATE, layout="mono") if audio else None
        ends = {
            round(time / tick): round(end / tick)
            for time, end in zip(times, [*times[1:], Fraction(seconds)], strict=True)
        }
        for packet in _encoded(av, stream, stored, times, tick):
            packet.duration = ends[packet.pts] - packet.pts
            opened.mux(packet)
        if sound is not None:
            opened.mux(list(_tone(av, sound, seconds)))


def _encoded(
    av: Any, stream: Any, frames: Sequence[Pixels], times: Sequence[Fraction], tick: Fraction
) -> Iterator[Any]:
    for pixels, time in zip(frames, times, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = round(time / tick), tick
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _tone(av: Any, stream: Any, seconds: float) -> Iterator[Any]:
    """Packets of a tone as long as the clip."""
    samples = np.arange(round(seconds * SOUND_RATE))
    wave = (LOUDNESS * np.sin(2 * np.pi * TONE / SOUND_RATE * samples)).astype(np.float32)
    stream.codec_context.open(strict=False)
    block = stream.codec_context.frame_size or 1024
    for start in range(0, len(wave), block):
        part = wave[None, start : start + block]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)
