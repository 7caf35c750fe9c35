"""What a run makes of clips, against clips of which is known who is where in every frame, and of real ones.

    python benchmarks/video.py --portraits DIR [--clips 6] [--people 5] [--seconds 1] [--fps 25] [--width 640] [--height 360]
        [--suffix .mp4] [--background FILE ...] [--story moving --story cut ...] [--seed 0] [any of below]
    python benchmarks/video.py --clip FILE [--clip FILE ...]
        [--share P] [--fidelity latent] [--restored 1] [--counted-by hog] [--keep DIR] [--json]

Heads of --people portraits move through each clip (`tests.made_clips`), one story after the other. --portraits: a folder of
photographs, or of Parquet files with a column `image`; those with exactly one face are used, other ones in each clip as long as
there are some. The clips are anonymized by a run of their own with their sound kept, and --restored of them come back by
requests that two approve, which takes longer than all else.

--clip: a real one, of which nobody knows who is in it: its people are the tracks of the run itself, its faces where these are. So
nothing is told of switches, and what the run took for a face and is none counts as one, as do the frames that it filled in, in
which somebody may be out of sight. Likeness and flicker are of faces that the run's detector sees in their frame.

Printed for each clip (`keyanon_core.evaluation.clips`):
- bare: faces that --counted-by, which the run does not use, sees in the source or in the clip, and that the clip shows as they
  were but for being encoded; of one that is known to be there, three tenths or more.
- like the source: frames in which some person's face is the source's by the recognizer, at its own threshold, of those in which
  the source has a face: what nobody anonymized is, now and then a stranger, and hair and background about a face that is hidden
  or painted over. seen: faces only that --counted-by finds in the clip; anywhere: all of them; others': the same of each face
  beside the source of another person of the frame: as many as chance makes.
- seen in the source: share of its faces that --counted-by sees there: what the count before is worth. hog is dlib's detector of
  upright faces, and quick; mmod is its network, which takes seconds a frame.
  --keep writes each of these frames to DIR, the source beside what is published, with boxes about the faces taken for theirs.
- switched, mixed: how often a person goes on as another track; tracks of several people.
- like the first: cosine about the recognizer's mean of a person's faces to the one first shown: the median, and what one in
  twenty falls below. In brackets the same of the source, whose views differ too.
- flicker: grey levels that the masked pixels of an aligned face change by from frame to frame, over what its source's do: the
  median of people, and the worst; and the levels of the worst. Where its source stands still the ratio says nothing.
- dB: of the restored frames inside the faces' masks: the median, and the worst. equal: share of those frames equal to the bit.
- times, sound: whether time base and frames' times are the source's, how much longer it lasts, share of equal packets of sound.
"""

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Final

import av
import cv2
import dlib
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import skimage.data
import typer
from PIL import Image, ImageDraw
from shared import Cell, only_face, photographs, print_facts, print_json, print_records, when_and_where

from jobs.config import AnonymizeConfig
from jobs.output.joined import CLIPS
from jobs.output.reader import read_rows
from jobs.recovery import RESTORED_CLIP, prepare, recover_request
from jobs.run.anonymize import run_anonymize
from jobs.run.report import RunReport
from jobs.sources.clips import Clips, SaidOfPieces
from keyanon_core.clips.tracking import NOBODY
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.errors import PictureError
from keyanon_core.evaluation.clips import (
    ClipTimes,
    Flicker,
    Switches,
    decibels_inside,
    equal_packets,
    flicker,
    frames_showing,
    identity_switches,
    likeness_to_first,
    times_kept,
    whose,
)
from keyanon_core.evaluation.verification import verified
from keyanon_core.faces import Face, FaceModels, load_face_models
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, chip, similarity
from keyanon_core.faces.detection import same_face
from keyanon_core.faces.dlib_models import SHAPE_PREDICTOR, dlib_model
from keyanon_core.faces.recognition import MEAN_IDENTITY
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.settings import DEFAULT_FIDELITY, AnonymizeSettings
from keystore.embedded import Keystore

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the clips that tests are made of
from tests.made_clips import STORIES, SUFFIXES, MadeClip, Shown, make_clip

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Row = dict[str, Cell]
Tracked = tuple[Sequence[Face], Sequence[str]]
"""The faces of a frame, in px of it, and whose tracks they are of."""

Counter = Callable[[Pixels], Floats]
"""Finds faces in an (H, W, 3) picture: (m, 4) boxes."""

COUNTED_VISIBLE: Final = 0.3  # share of a face that is seen, from which it could give its person away
BACKGROUNDS: Final = ("coffee.png", "motorcycle_left.png")  # scikit-image's
WHOLE: Final = 0.9  # the same, from which its looks and its flicker are its own and not of what hides it
CODED_ALIKE: Final = 6.0  # grey levels, in the mean of a face's box or about a pixel, below which nobody touched it
AROUND: Final = 5  # px that are about a pixel
SIDE: Final = 128  # px of the crops that flicker is measured in
KEPT: Final = 2  # times as large as the clip, kept frames
ENLARGED: Final = 1  # times that dlib's detectors double a picture: they find faces from 40 px on
NETWORK: Final = "mmod_human_face_detector.dat"  # beside the recognizer's weights (Max-Margin Object Detection, CC0)


def main(
    portraits: Annotated[
        Path | None, typer.Option(help="Folder of photographs, or of Parquet files with a column image.")
    ] = None,
    clip: Annotated[list[Path] | None, typer.Option(help="A real clip, instead of made ones; again for more.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="How many to make.")] = len(STORIES),
    people: Annotated[int, typer.Option(min=1, help="In each clip.")] = 5,
    story: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(STORIES)}; again for more.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each clip.")] = 1.0,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 25.0,
    width: Annotated[int, typer.Option(help="px; even.")] = 640,
    height: Annotated[int, typer.Option(help="px; even.")] = 360,
    suffix: Annotated[str, typer.Option(help=f"Of {', '.join(SUFFIXES)}.")] = ".mp4",
    fidelity: Annotated[str, typer.Option(help="Of the run.")] = DEFAULT_FIDELITY,
    restored: Annotated[int, typer.Option(min=0, help="Clips to restore, the first ones.")] = 1,
    counted_by: Annotated[str, typer.Option(help="hog or mmod, of dlib.")] = "hog",
    seed: Annotated[int, typer.Option()] = 0,
    background: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph without faces behind them; again for more. Default: of packages."),
    ] = None,
    share: Annotated[float | None, typer.Option(help="Payload share of the run.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for frames that show a source, to be looked at; shows real faces.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """Make clips or take real ones, anonymize and restore them, measure and print."""
    if counted_by not in COUNTERS:
        raise typer.BadParameter(f"no detector is called {counted_by!r}; choose from {', '.join(COUNTERS)}")
    if (portraits is None) == (not clip):
        raise typer.BadParameter("give --portraits to make clips of, or --clip for real ones")
    if len({path.name for path in clip or []}) < len(clip or []):
        raise typer.BadParameter("two clips have one name; give each a name of its own")
    models = load_face_models()
    facts: dict[str, Cell] = dict(when_and_where())
    with tempfile.TemporaryDirectory() as scratch:
        root, made = Path(scratch), list[MadeClip]()
        (root / "clips").mkdir()
        names = [Path(shutil.copy(path, root / "clips")).name for path in clip or []]
        if portraits is not None:
            stories, heads = story or list(STORIES), list(islice(_portraits(portraits, models), clips * people))
            if len(heads) < people:
                raise typer.BadParameter(
                    f"{len(heads)} pictures of one face in {portraits}; --people asks for {people}"
                )
            named = background or [Path(skimage.data.__file__).with_name(name) for name in BACKGROUNDS]
            behind = [decode_picture(path.read_bytes()) for path in named]
            made = [
                make_clip(
                    root / "clips" / f"{number:03d} {stories[number % len(stories)]}{suffix}",
                    [heads[(number * people + person) % len(heads)] for person in range(people)],
                    seconds=seconds,
                    fps=fps,
                    size=(width, height),
                    story=stories[number % len(stories)],  # type: ignore[arg-type]
                    seed=seed + number,
                    backgrounds=behind,
                )
                for number in range(clips)
            ]
            names = [one.path.name for one in made]
            facts |= {"portraits": len(heads), "people": people, "size": f"{width} x {height}"}
        published = anonymize_and_restore(root, fidelity, share, names[:restored])
        counter = COUNTERS[counted_by]()
        known = made or [_as_tracked(root / "clips" / name, published, models) for name in names]
        rows = [measure(one, published, models, counter, keep) for one in known]
    facts |= {"recognizer": models.recognizer.name, "counted by": counted_by, **published.facts}
    if as_json:
        print_json({**facts, "clips": rows})
    else:
        print_facts(facts)
        print_records(rows)


def _portraits(folder: Path, models: FaceModels) -> Iterator[Pixels]:
    """Those with one face, in order of name."""
    for encoded in _pictures(folder):
        try:
            pixels = decode_picture(encoded, AnonymizeSettings().max_pixels)
            only_face(pixels, models)
        except PictureError:
            continue
        yield pixels


def _pictures(folder: Path) -> Iterator[bytes]:
    for path in photographs(folder):
        yield path.read_bytes()
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64, columns=["image"]):
            yield from batch["image"].to_pylist()


def _hog() -> Counter:
    detector = dlib.get_frontal_face_detector()
    return lambda pixels: _boxes(detector(pixels, ENLARGED))


def _mmod() -> Counter:
    network = dlib.cnn_face_detection_model_v1(str(dlib_model(SHAPE_PREDICTOR).with_name(NETWORK)))
    return lambda pixels: _boxes([found.rect for found in network(pixels, ENLARGED)])


def _boxes(found: Sequence[dlib.rectangle]) -> Floats:
    corners = [(one.left(), one.top(), one.right() + 1, one.bottom() + 1) for one in found]
    return np.array(corners, np.float64).reshape(-1, 4)


COUNTERS: Final[dict[str, Callable[[], Counter]]] = {"hog": _hog, "mmod": _mmod}


@dataclass(frozen=True)
class Published:
    """What a run made of clips. anonymized: their folder. restored: by a clip's name, where there is such. tracks: by a clip's
    name, of each frame the faces that were tracked there, and their tracks. facts: to be printed.
    """

    anonymized: Path
    restored: Mapping[str, Path]
    tracks: Mapping[str, Sequence[Tracked]]
    facts: Mapping[str, Cell]


def anonymize_and_restore(root: Path, fidelity: str, share: float | None, wanted: Sequence[str]) -> Published:
    """A run over `root/clips`, and those of these names restored."""
    payload = {} if share is None else {"pseudonyms": "tracks", "payload_share": share}
    places = {"photos": str(root / "clips"), "output": root / "out", "keystore": root / "keystore"}
    config = AnonymizeConfig.load(None, {**places, "audio": "keep", "fidelity": fidelity} | payload)
    report, tracks = _tracked_run(config)
    if report.clips_missing:
        raise typer.BadParameter(f"clips that were not published: {report.clips_missing}")
    begun, back = time.monotonic(), dict[str, Path]()
    with Keystore.open(root / "keystore") as keystore:
        for number, name in enumerate(wanted):
            rows = (row for row in read_rows(root / "out") if row.image_id.startswith(f"{name}/"))
            records = [record_id for row in rows for record_id in row.record_ids]
            request = keystore.request("ann", records, "C-1", "measure what comes back", "consent", timedelta(hours=1))
            for person in ("bob", "cleo"):
                keystore.approve(request.request_id, person, request.digest)
            restored = root / "restored" / str(number)
            images = keystore.show(request.request_id).images
            recover_request(keystore, request.request_id, "ann", prepare(root / "out", restored, images))
            back[name] = restored / f"{name}{RESTORED_CLIP}"
    facts: dict[str, Cell] = {"faces": report.faces, "keys tried": report.key_attempts}
    facts |= {"s to anonymize": round(report.seconds, 1), "s to restore": round(time.monotonic() - begun, 1)}
    return Published(root / "out" / CLIPS, back, tracks, facts)


def _tracked_run(config: AnonymizeConfig) -> tuple[RunReport, dict[str, list[Tracked]]]:
    """Run, and listen to whom the run takes for whom, which no output says."""
    tracks = dict[str, list[Tracked]]()
    known = Clips.know

    def listening(source: Clips, said: Mapping[str, SaidOfPieces]) -> None:
        for clip in source.clips:
            assert clip.index is not None, "the clips were made to be read"
            height, faces = clip.index.form.upright_size[1], said[clip.name](range(len(clip.rows)))
            pieces, nobodies = zip(map(PieceFaces.from_json, faces), clip.index.cuts(), strict=True), count()
            tracks[clip.name] = [
                one for faces, cut in pieces for one in _by_frame(faces, len(cut.times), height, nobodies)
            ]
        known(source, said)

    setattr(Clips, "know", listening)  # noqa: B010  a method
    try:
        return run_anonymize(config), tracks
    finally:
        setattr(Clips, "know", known)  # noqa: B010


def _by_frame(piece: PieceFaces, frames: int, height: int, nobodies: Iterator[int]) -> Iterator[Tracked]:
    """Of each frame of a piece. nobodies: numbers for faces that stand for nobody: each looks like no other."""
    for frame in range(frames):
        some = [at for at, face in enumerate(piece.faces) if face.frame == frame]
        names = [piece.subjects[at] or f"nobody {next(nobodies)}" for at in some]
        yield [piece.faces[at].moved(-frame * height, 0) for at in some], names


def _as_tracked(path: Path, published: Published, models: FaceModels) -> MadeClip:
    """A real clip, in which those are who were tracked there."""
    tracked, frames = published.tracks[path.name], _frames(path)
    numbers = {name: number for number, name in enumerate(sorted({name for _, names in tracked for name in names}))}
    truth = list[tuple[Shown, ...]]()
    for frame, (faces, names) in zip(frames, tracked, strict=True):
        seen = models.detector.detect(frame)
        visible = [WHOLE if any(same_face(face, one) for one in seen) else COUNTED_VISIBLE for face in faces]
        people = [numbers[name] for name in names]
        shown = zip(people, (face.box for face in faces), (face.landmarks for face in faces), visible, strict=True)
        truth.append(tuple(Shown(*one) for one in shown))
    return MadeClip(path, (), tuple(truth), (), (frames.shape[2], frames.shape[1]), float(_times(path).duration))


def measure(clip: MadeClip, published: Published, models: FaceModels, counter: Counter, keep: Path | None) -> Row:
    """One clip's row of the table. keep: where frames that show a source are written to."""
    anonymized = published.anonymized / clip.path.name
    source, shown = _frames(clip.path), _frames(anonymized)
    switches = _switches(clip, published.tracks[clip.path.name]) if clip.times else None
    times, sound = times_kept(_times(anonymized), _times(clip.path)), (_sound(anonymized), _sound(clip.path))
    return {
        "clip": clip.path.stem,
        "frames": len(source),
        **_shown(clip, source, shown, models, counter, keep),
        "switched": switches.switched if switches else "-",
        "mixed": switches.mixed if switches else "-",
        "like the first, median and 5 %": _likeness(clip, source, shown, models),
        "flicker, median (worst), levels": _flicker(clip, source, shown, models),
        **_restored(clip, source, published.restored.get(clip.path.name), models),
        "times": f"{'same' if times.same_base else 'other'} base, {times.frames:+d} frames, {times.shift:.4f} s off",
        "lasts longer, s": times.duration,
        "sound": equal_packets(*sound),
    }


def _faces(clip: MadeClip, visible: float) -> list[tuple[int, Shown]]:
    """With their frames, those of which so much is seen."""
    return [(frame, one) for frame, faces in enumerate(clip.truth) for one in faces if one.visible >= visible]


def _shown(
    clip: MadeClip, source: Pixels, shown: Pixels, models: FaceModels, counter: Counter, keep: Path | None
) -> Row:
    there = _faces(clip, COUNTED_VISIBLE)
    frames = np.array([frame for frame, _ in there], np.int64)
    vectors = [models.recognizer.embed([(clips[at], one.face) for at, one in there]) for clips in (source, shown)]
    distances = np.array([models.recognizer.distance(*pair) for pair in zip(*vectors, strict=True)], np.float64)
    found, known = (_seen(clips, there, counter) for clips in (shown, source))
    threshold, of = models.recognizer.threshold, len(np.unique(frames))
    seen = frames_showing(frames[found], distances[found], threshold)
    if keep is not None:
        for at in np.flatnonzero(verified(distances, threshold)):
            kind = "seen" if found[at] else "unseen"
            _keep(keep / f"{clip.path.stem} {frames[at]:05d} {kind} {distances[at]:.2f}.png", source, shown, *there[at])
    pairs = [(at, other) for at in range(len(frames)) if (other := _another(frames, at)) is not None]
    strangers = np.array(pairs, np.int64).reshape(-1, 2)
    others = [models.recognizer.distance(vectors[0][other], vectors[1][at]) for at, other in pairs]
    of_others = frames_showing(frames[strangers[:, 0]], np.array(others, np.float64), threshold)
    return {
        "bare": _bare(clip, source, shown, np.flatnonzero(found | known), models, keep)
        + _untouched(source, shown, counter),
        "like the source, seen": f"{len(seen)} of {of}",
        "anywhere": f"{len(frames_showing(frames, distances, threshold))} of {of}",
        "others'": f"{len(of_others)} of {len(np.unique(frames[strangers[:, 0]]))}",
        "seen in the source": float(known.mean()) if len(known) else math.nan,
    }


def _another(frames: Numbers, at: int) -> int | None:
    """The position of another face of the same frame."""
    return next((other for other in np.flatnonzero(frames == frames[at]).tolist() if other != at), None)


def _bare(clip: MadeClip, source: Pixels, shown: Pixels, rows: Numbers, models: FaceModels, keep: Path | None) -> int:
    """Faces that are known to be there, of which the clip shows so much as it was that it could give its person away. rows: those
    that the other detector sees."""
    bare, there = 0, _faces(clip, COUNTED_VISIBLE)
    for at, one in (there[row] for row in rows):
        mask = _mask(source[at], one, models)
        if mask.any():
            change = cv2.blur(np.abs(source[at].astype(np.float32) - shown[at]).mean(axis=2), (AROUND, AROUND))
            if (share := float((change[mask] < CODED_ALIKE).mean())) >= COUNTED_VISIBLE:
                bare += 1
                if keep is not None:
                    _keep(keep / f"{clip.path.stem} {at:05d} bare {share:.2f}.png", source, shown, at, one)
    return bare


def _keep(path: Path, source: Pixels, shown: Pixels, frame: int, face: Shown) -> None:
    """Write one frame of both clips, side by side and enlarged, with a box about a face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = [Image.fromarray(clip[frame]) for clip in (source, shown)]
    for side in sides:
        ImageDraw.Draw(side).rectangle(face.box, outline="red")
    beside = Image.fromarray(np.concatenate([np.asarray(side) for side in sides], axis=1))
    beside.resize((KEPT * beside.width, KEPT * beside.height)).save(path)


def _untouched(source: Pixels, shown: Pixels, counter: Counter) -> int:
    """Places at which the detector sees a face in the source, known or not, and the clip is as it was but for being encoded."""
    boxes = [(at, *np.rint(box).astype(int).clip(0)) for at, frame in enumerate(source) for box in counter(frame)]
    changes = (np.abs(source[at, y0:y1, x0:x1] - shown[at, y0:y1, x0:x1].astype(float)) for at, x0, y0, x1, y1 in boxes)
    return sum(change.mean() < CODED_ALIKE for change in changes)


def _seen(frames: Pixels, there: Sequence[tuple[int, Shown]], counter: Counter) -> npt.NDArray[np.bool_]:
    """Of each face, whether the detector sees one there."""
    found = np.zeros(len(there), np.bool_)
    for frame in sorted({at for at, _ in there}):
        rows = [row for row, (at, _) in enumerate(there) if at == frame]
        hits = whose(counter(frames[frame]), np.array([there[row][1].box for row in rows], np.float64))
        found[[rows[hit] for hit in hits if hit != NOBODY]] = True
    return found


def _switches(clip: MadeClip, tracks: Sequence[Tracked]) -> Switches:
    frames, people, names = list[int](), list[int](), list[str]()
    for frame, ((faces, of), truth) in enumerate(zip(tracks, clip.truth, strict=True)):
        boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        seen = [one for one in truth if one.visible >= COUNTED_VISIBLE]
        matched = whose(boxes, np.array([one.box for one in seen], np.float64))
        frames += [frame] * len(boxes)
        people += [seen[at].person if at != NOBODY else NOBODY for at in matched]
        names += of
    numbers = np.unique(np.array(names, np.str_), return_inverse=True)[1]
    return identity_switches(np.array(frames, np.int64), np.array(people, np.int64), numbers)


def _likeness(clip: MadeClip, source: Pixels, shown: Pixels, models: FaceModels) -> str:
    there = _faces(clip, WHOLE)
    frames, people = np.array([(at, one.person) for at, one in there], np.int64).T
    told = []
    for clips in (shown, source):
        vectors = models.recognizer.embed([(clips[at], one.face) for at, one in there]).astype(np.float64)
        cosines = likeness_to_first(frames, people, vectors, MEAN_IDENTITY)
        told.append(f"{np.median(cosines):.3f}, {np.quantile(cosines, 0.05):.3f}")
    return f"{told[0]} ({told[1]})"


def _flicker(clip: MadeClip, source: Pixels, shown: Pixels, models: FaceModels) -> str:
    there, found = _faces(clip, WHOLE), list[Flicker]()
    for person in sorted({one.person for _, one in there}):
        some = [(at, one) for at, one in there if one.person == person]
        affines = [similarity(one.landmarks, UPRIGHT_TEMPLATE * SIDE) for _, one in some]
        published, original = (
            np.stack([chip(clips[at], affine, SIDE) for (at, _), affine in zip(some, affines, strict=True)])
            for clips in (shown, source)
        )
        masks = np.stack(
            [
                chip(_mask(source[at], one, models)[..., None].repeat(3, 2) * np.uint8(255), affine, SIDE)[..., 0] > 127
                for (at, one), affine in zip(some, affines, strict=True)
            ]
        )
        found.append(flicker(np.array([at for at, _ in some], np.int64), published, original, masks))
    told = sorted((one for one in found if not math.isnan(one.ratio)), key=lambda one: one.ratio)
    if not told:
        return "-"
    worst = told[-1]
    return f"{np.median([one.ratio for one in told]):.2f} ({worst.ratio:.2f}), {worst.published:.2f} for {worst.source:.2f}"


def _restored(clip: MadeClip, source: Pixels, restored: Path | None, models: FaceModels) -> Row:
    if restored is None:
        return {"dB, median (worst)": "-", "equal": math.nan}
    decibels = decibels_inside(_frames(restored), source, _masks(clip, source, models))
    told = f"{np.median(decibels):.1f} ({decibels.min():.1f})"
    return {"dB, median (worst)": told, "equal": float(np.isinf(decibels).mean())}


def _masks(clip: MadeClip, source: Pixels, models: FaceModels) -> npt.NDArray[np.bool_]:
    """(n, H, W) pixels of the faces that could give somebody away."""
    masks = np.zeros(source.shape[:3], np.bool_)
    for frame, one in _faces(clip, COUNTED_VISIBLE):
        masks[frame] |= _mask(source[frame], one, models)
    return masks


def _mask(pixels: Pixels, shown: Shown, models: FaceModels) -> npt.NDArray[np.bool_]:
    return models.parser.mask(pixels, shown.face, AnonymizeSettings().regions).full(pixels.shape)


def _frames(path: Path) -> Pixels:
    """(n, H, W, 3)."""
    with av.open(str(path)) as opened:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)])


def _times(path: Path) -> ClipTimes:
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        packets = sorted((packet.pts, packet.duration or 0) for packet in opened.demux(stream) if packet.size)
        base = Fraction(stream.time_base)
    (first, _), (last, shown) = packets[0], packets[-1]
    return ClipTimes(base, tuple(time * base for time, _ in packets), (last + shown - first) * base)


def _sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as opened:
        return [bytes(packet) for packet in opened.demux(*opened.streams.audio) if packet.size]


if __name__ == "__main__":
    typer.run(main)
