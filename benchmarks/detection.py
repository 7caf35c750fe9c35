"""Which faces are found, and how many are published untouched: scenes composed of known faces, searched and anonymized.

    python benchmarks/detection.py --photos DIR [--faces 2000] [--min-face 16] [--seed 0] [--smallest 0.3] [--largest 50]
        [--skip-recall] [--skip-path] [--skip-cost]

Faces are cut from the portraits in DIR (or from the two photographs that ship in scikit-image and matplotlib) and set into
backgrounds of 0.3 to 50 megapixels: photographs and textures of scikit-image, noise and gradients. Sizes run evenly over the
logarithm from 16 to 400 px of box height. The cases: upright; behind another face at an overlap (IoU of boxes) of 0.1 to 0.6;
turned by any angle; cut by the border; dark; blurred; grey.

Printed: recall of the first pass and of both (the second one also shown the source), by size and by case; false alarms on the
backgrounds alone; the number of faces that the whole path publishes untouched; CPU seconds of both passes for pictures of
0.3, 2 and 24 megapixels and several --min-face. `Untouched` means: the picture came out anonymized, and at least half of the
pixels between the face's landmarks that the scene shows are the source's to the bit. The whole path runs PictureAnonymizer
with rounds, but with few steps and no gate: both change how a face is replaced, not which.
"""

import inspect
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer
from shared import photographs

from keyanon_core.faces import Face, FaceModels, load_face_models
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import load_prior

Pixels = npt.NDArray[np.uint8]
CASES = ("upright", "behind", "turned", "border", "dark", "blurred", "grey")
SIZES = (16, 20, 28, 40, 64, 128, 400)  # px; edges of the printed classes
MEGAPIXELS = (0.3, 0.3, 0.3, 1.0, 2.0, 2.0, 6.0, 12.0, 24.0, 50.0)  # of the scenes, in turn
MAX_FACES_IN_SCENE = 24
COUNTED_FROM = 20  # px; smaller faces are not promised
MIN_VISIBLE = 1 / 3  # of a face's inner part; with less in sight, what is behind another face is counted apart
OVERLAP = (0.1, 0.6)  # IoU of the boxes of a face and the one before it
CUT = (0.15, 0.5)  # share of a face that the border takes
DARK = (0.08, 0.3)  # factor on the values
BLUR = (0.03, 0.08)  # standard deviation in face heights
MATCH_DISTANCE = 0.3  # of its size: how far from a face's middle a detection of it may be
MATCH_SIZE = 2.0
HALF = 0.5
COST_MEGAPIXELS = (0.15, 0.3, 2.0, 24.0)
COST_MIN_FACES = (16, 24, 32, 64)
BACKGROUNDS = (
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "grass.png",
    "gravel.png",
    "brick.png",
)


@dataclass
class Portrait:
    """A photograph and its one face."""

    pixels: Pixels
    face: Face

    @property
    def height(self) -> float:
        return self.face.box[3] - self.face.box[1]


@dataclass
class Placed:
    """A face in a scene. visible: (n, 2) rows and columns of the pixels between its landmarks that the scene shows."""

    case: str
    size: float
    centre: npt.NDArray[np.float64]
    visible: npt.NDArray[np.int64]
    inner: int  # pixels between its landmarks, shown or not

    @property
    def shown(self) -> float:
        return len(self.visible) / max(self.inner, 1)


@dataclass
class Scene:
    pixels: Pixels
    faces: list[Placed] = field(default_factory=list)


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of portraits, one face each.")] = None,
    faces: Annotated[int, typer.Option(help="Faces at least.")] = 2000,
    min_face: Annotated[int, typer.Option(help="px; the detector's setting.")] = 16,
    seed: Annotated[int, typer.Option()] = 0,
    case: Annotated[str, typer.Option(help="One case only.")] = "",
    smallest: Annotated[float, typer.Option(help="Megapixels of the smallest scene.")] = 0.3,
    largest: Annotated[float, typer.Option(help="Megapixels of the largest scene.")] = 50.0,
    skip_recall: Annotated[bool, typer.Option(help="Leave out the recall of both passes.")] = False,
    skip_path: Annotated[bool, typer.Option(help="Leave out the whole path.")] = False,
    skip_cost: Annotated[bool, typer.Option(help="Leave out the cost.")] = False,
) -> None:
    """Compose, search, anonymize and print."""
    models = _models(min_face)
    portraits = list(_portraits(photos, models))
    typer.echo(f"{len(portraits)} portraits, detector {models.detector.name}, seed {seed}")
    if not skip_recall:
        _print_false_alarms(models)
    counts = Counts()
    path = None if skip_path else WholePath(models)
    made = number = 0
    while made < faces:
        megapixels = [size for size in MEGAPIXELS if smallest <= size <= largest]
        scene = compose(np.random.default_rng([seed, number]), portraits, megapixels[number % len(megapixels)], case)
        number, made = number + 1, made + len(scene.faces)
        try:
            if not skip_recall:
                counts.add(scene, models)
            if path is not None:
                path.run(scene, number)
        except KeyboardInterrupt:
            typer.echo("interrupted: what was measured so far")
            break
    if not skip_recall:
        counts.print()
    if path is not None:
        path.print()
    if not skip_cost:
        _print_cost(portraits)


def _models(min_face: int) -> FaceModels:
    """Face models; releases without the setting are measured as they are."""
    if "min_face" in inspect.signature(load_face_models).parameters:
        return load_face_models("embedded", min_face=min_face)
    return load_face_models("embedded")


def _packaged(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise typer.BadParameter(f"{package} is not installed")
    return Path(spec.origin).parent / path


def _read(path: Path) -> Pixels:
    return decode_picture(path.read_bytes(), max_pixels=AnonymizeSettings().max_pixels)


def _portraits(photos: Path | None, models: FaceModels) -> Iterator[Portrait]:
    paths = (
        photographs(photos)
        if photos is not None
        else [
            _packaged("skimage", "data/astronaut.png"),
            _packaged("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        ]
    )
    for path in paths:
        pixels = _read(path)
        found = models.detector.detect(pixels)
        if len(found) == 1:
            yield Portrait(pixels, found[0])


def compose(rng: np.random.Generator, portraits: list[Portrait], megapixels: float, only: str = "") -> Scene:
    """A background with faces that do not touch each other, but for those behind another."""
    aspect = float(rng.uniform(0.65, 1.5))
    height = round(math.sqrt(megapixels * 1e6 / aspect))
    scene = Scene(_background(rng, height, round(height * aspect)))
    free = np.ones((-(-scene.pixels.shape[0] // 8), -(-scene.pixels.shape[1] // 8)), np.uint8)  # cells of 8 px
    for _ in range(4 * MAX_FACES_IN_SCENE):
        if len(scene.faces) >= MAX_FACES_IN_SCENE:
            break
        _place(rng, scene, free, portraits, only or str(rng.choice(CASES)))
    return scene


def _background(rng: np.random.Generator, height: int, width: int) -> Pixels:
    kind = int(rng.integers(len(BACKGROUNDS) + 2))
    if kind == len(BACKGROUNDS):
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == len(BACKGROUNDS) + 1:
        across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
        return np.asarray(255 * (across * rng.random(3) + down * rng.random(3)) / 2, np.uint8)
    pixels = _read(_packaged("skimage", f"data/{BACKGROUNDS[kind]}"))
    # repeated in mirror images, at 1 to 3 times its size, so that the background has detail at full resolution
    scale = float(rng.uniform(1.0, 3.0))
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    pixels = np.concatenate([pixels, pixels[:, ::-1]], 1)
    pixels = np.concatenate([pixels, pixels[::-1]], 0)
    repeats = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
    return np.ascontiguousarray(np.tile(pixels, repeats)[:height, :width])


def _place(
    rng: np.random.Generator, scene: Scene, free: npt.NDArray[np.uint8], portraits: list[Portrait], case: str
) -> None:
    """Try to set one face, or two where one is behind the other, into a free part of a scene."""
    height, width = scene.pixels.shape[:2]
    size = float(np.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[-1]))))
    room = size * (3.2 if case == "behind" else 1.7)
    if room > min(height, width):
        return
    place = np.array([rng.uniform(room / 2, width - room / 2), rng.uniform(room / 2, height - room / 2)])
    if case == "border":
        share, side = float(rng.uniform(*CUT)), int(rng.integers(4))
        inside = size * (0.5 - share) * (0.8 if side < 2 else 1.0)  # faces are narrower than high
        place[side // 2] = inside if side % 2 == 0 else (width, height)[side // 2] - inside
    x0, y0 = np.maximum((place - room / 2) // 8, 0).astype(int)
    x1, y1 = ((place + room / 2) // 8 + 1).astype(int)
    if not free[y0:y1, x0:x1].all():
        return
    free[y0:y1, x0:x1] = 0
    if case == "behind":
        front = size * float(rng.uniform(0.8, 1.4))
        overlap, direction = float(rng.uniform(*OVERLAP)), float(rng.uniform(0, 2 * math.pi))
        rear, before = _choose(rng, portraits, size), _choose(rng, portraits, front)
        shift = _shift_for_overlap(rear, size, before, front, overlap, direction)
        if shift is None:
            return
        behind = _draw(scene, rear, size, place - shift / 2, 0.0, "behind", rng)
        covered = np.zeros(scene.pixels.shape[:2], np.bool_) if behind is not None else None
        face = _draw(scene, before, front, place + shift / 2, 0.0, "upright", rng, covered)
        if behind is not None and covered is not None:
            rows, columns = behind.visible.T
            behind.visible = behind.visible[~covered[rows, columns]]
        scene.faces += [one for one in (behind, face) if one is not None]
        return
    angle = float(rng.uniform(-180, 180)) if case == "turned" else float(rng.uniform(-12, 12))
    placed = _draw(scene, _choose(rng, portraits, size), size, place, angle, case, rng)
    if placed is not None:
        scene.faces.append(placed)


def _choose(rng: np.random.Generator, portraits: list[Portrait], size: float) -> Portrait:
    """A portrait, one that need not be enlarged much where there is one."""
    fitting = [portrait for portrait in portraits if portrait.height >= 0.7 * size] or portraits
    return fitting[int(rng.integers(len(fitting)))]


def _shift_for_overlap(
    rear: Portrait, size: float, front: Portrait, front_size: float, overlap: float, direction: float
) -> npt.NDArray[np.float64] | None:
    """How far apart two faces' boxes must be to overlap so much; None where they can not overlap so much."""
    sides = [
        np.array([s / p.height * (p.face.box[2] - p.face.box[0]), s]) for p, s in ((rear, size), (front, front_size))
    ]
    unit = np.array([math.cos(direction), math.sin(direction)])
    for distance in np.linspace(0, 2 * max(size, front_size), 200):
        offset = unit * distance
        shared = np.maximum(
            np.minimum(sides[0] / 2, offset + sides[1] / 2) - np.maximum(-sides[0] / 2, offset - sides[1] / 2), 0
        )
        both = float(shared.prod())
        if both / float(sides[0].prod() + sides[1].prod() - both) <= overlap:
            return None if distance == 0 else offset
    return None


def _draw(
    scene: Scene,
    portrait: Portrait,
    size: float,
    place: npt.NDArray[np.float64],
    angle: float,
    case: str,
    rng: np.random.Generator,
    covered: npt.NDArray[np.bool_] | None = None,
) -> Placed | None:
    """Blend a head into a scene at `place` (x, y), turned by `angle` degrees; covered: set where it hides what was there."""
    x0, y0, x1, y1 = portrait.face.box
    scale, middle = size / portrait.height, np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    pixels = portrait.pixels
    outline = np.zeros(pixels.shape[:2], np.float32)
    axes = (round((x1 - x0) * 0.68), round((y1 - y0) * 0.66))
    cv2.ellipse(outline, (round(middle[0]), round(middle[1] - 0.04 * (y1 - y0))), axes, 0, 0, 360, 1.0, -1)
    if scale < 1:  # reduce by averaging, then turn
        reduced = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
        ratio = np.array([reduced[0] / pixels.shape[1], reduced[1] / pixels.shape[0]])
        pixels = cv2.resize(pixels, reduced, interpolation=cv2.INTER_AREA)
        outline = cv2.resize(outline, reduced, interpolation=cv2.INTER_AREA)
    else:
        ratio = np.ones(2)
    if case == "dark":
        pixels = (pixels * float(rng.uniform(*DARK))).astype(np.uint8)
    if case == "blurred":
        pixels = cv2.GaussianBlur(pixels, (0, 0), max(float(rng.uniform(*BLUR)) * size * ratio[1] / scale, 0.3))
    if case == "grey":
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    linear = scale * turn @ np.diag(1 / ratio)
    reach = math.ceil(size * 0.95)
    wx0, wy0 = np.maximum(np.floor(place - reach).astype(int), 0)
    wx1, wy1 = np.minimum(np.ceil(place + reach).astype(int), scene.pixels.shape[1::-1])
    if wx0 >= wx1 or wy0 >= wy1:
        return None
    centre = (middle + 0.5) * ratio - 0.5
    matrix = np.hstack([linear, (place - [wx0, wy0] - linear @ centre)[:, None]])
    window = (int(wx1 - wx0), int(wy1 - wy0))
    alpha = cv2.warpAffine(outline, matrix, window)[..., None]
    drawn = cv2.warpAffine(pixels, matrix, window, borderMode=cv2.BORDER_REPLICATE)
    part = scene.pixels[wy0:wy1, wx0:wx1]
    part[:] = np.rint(part * (1 - alpha) + drawn * alpha).astype(np.uint8)
    if covered is not None:
        covered[wy0:wy1, wx0:wx1] = alpha[..., 0] > HALF
    hull = (portrait.face.landmarks - middle) @ (scale * turn).T + place
    whole = np.zeros((4 * reach, 4 * reach), np.uint8)
    cv2.fillConvexPoly(whole, cv2.convexHull(np.rint(hull - place + 2 * reach).astype(np.int32)), 1)
    rows, columns = np.nonzero(whole)
    rows, columns = rows + round(place[1]) - 2 * reach, columns + round(place[0]) - 2 * reach
    inside = (rows >= 0) & (columns >= 0) & (rows < scene.pixels.shape[0]) & (columns < scene.pixels.shape[1])
    return Placed(case, size, hull.mean(0), np.stack([rows[inside], columns[inside]], -1), len(rows))


def matched(faces: list[Placed], found: list[Face]) -> list[bool]:
    """Which placed faces were found: each detection stands for one face at most, the nearest pairs first."""
    pairs = []
    for i, face in enumerate(faces):
        for j, one in enumerate(found):
            distance = float(np.linalg.norm(one.landmarks.mean(0) - face.centre)) / face.size
            ratio = (one.box[3] - one.box[1]) / face.size
            if distance < MATCH_DISTANCE and 1 / MATCH_SIZE < ratio < MATCH_SIZE:
                pairs.append((distance, i, j))
    taken: set[int] = set()
    hits = [False] * len(faces)
    for _, i, j in sorted(pairs):
        if not hits[i] and j not in taken:
            hits[i] = True
            taken.add(j)
    return hits


class Counts:
    """Recall of the first pass and of both."""

    def __init__(self) -> None:
        self.rows: list[tuple[Placed, bool, bool]] = []
        self.extra = [0, 0]

    def add(self, scene: Scene, models: FaceModels) -> None:
        first = models.detector.detect(scene.pixels)
        again = getattr(models.detector, "look_again", models.detector.detect)(scene.pixels)
        hits, more = matched(scene.faces, first), matched(scene.faces, again)
        self.rows += [(face, a, a or b) for face, a, b in zip(scene.faces, hits, more, strict=True)]
        self.extra[0] += len(first) - sum(hits)

    def print(self) -> None:
        shown = [row for row in self.rows if row[0].shown >= MIN_VISIBLE]
        typer.echo(f"{len(self.rows)} faces, {len(shown)} of them at least a third in sight; first pass, both passes")
        classes = list(itertools.pairwise(SIZES))
        typer.echo("| case | " + " | ".join(f"{low}-{high} px" for low, high in classes) + " | all |")
        typer.echo("|---" * (len(classes) + 2) + "|")
        for case in (*CASES, "all"):
            rows = [row for row in shown if case in (row[0].case, "all")]
            cells = [[row for row in rows if low <= row[0].size < high] for low, high in classes]
            typer.echo(f"| {case} | " + " | ".join(_recall(cell) for cell in (*cells, rows)) + " |")
        typer.echo(f"detections of the first pass that are none of the faces: {self.extra[0]}")


def _recall(rows: list[tuple[Placed, bool, bool]]) -> str:
    if not rows:
        return "-"
    return (
        f"{100 * np.mean([row[1] for row in rows]):.1f}, {100 * np.mean([row[2] for row in rows]):.1f} % of {len(rows)}"
    )


class WholePath:
    """What the whole path makes of the scenes."""

    def __init__(self, models: FaceModels) -> None:
        settings = AnonymizeSettings(steps=2, fidelity="lossless", gate_threshold=1e-6)
        self.anonymizer = PictureAnonymizer(load_prior("embedded"), models, settings)
        self.statuses: dict[str, int] = {}
        self.faces = self.published = self.hidden = self.hidden_untouched = 0
        self.untouched: list[str] = []
        self.small: list[str] = []

    def run(self, scene: Scene, number: int) -> None:
        encoded = cv2.imencode(".png", scene.pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        (result,) = self.anonymizer([PictureTask(f"scene-{number}", encoded)])
        rounds = f", {result.faces} faces taken for {len(scene.faces)}"
        typer.echo(
            f"scene {number}: {result.status}{rounds}, {len(self.untouched)} untouched of {self.faces}", err=True
        )
        status = result.status + (f" ({result.reason.split(':')[0]})" if result.status == "quarantined" else "")
        self.statuses[status] = self.statuses.get(status, 0) + 1
        pixels = decode_picture(result.encoded, max_pixels=10**9) if result.encoded is not None else None
        for face in scene.faces:
            rows, columns = face.visible.T
            same = (
                float((pixels[rows, columns] == scene.pixels[rows, columns]).all(-1).mean())
                if pixels is not None and len(rows)
                else 0.0
            )
            untouched = same >= HALF
            if face.shown < MIN_VISIBLE:
                self.hidden += 1
                self.hidden_untouched += untouched
                continue
            where = f"scene {number}: {face.case}, {face.size:.0f} px, {100 * face.shown:.0f} % in sight at {face.centre.round()}"
            if face.size >= COUNTED_FROM:
                self.faces += 1
                self.published += pixels is not None
                if untouched:
                    self.untouched.append(where)
                    typer.echo(f"untouched: {where}", err=True)
            elif untouched:
                self.small.append(where)

    def print(self) -> None:
        typer.echo(f"whole path: {self.statuses}")
        typer.echo(
            f"published untouched: {len(self.untouched)} of {self.faces} faces of {COUNTED_FROM} px and more "
            f"({self.published} of them in published pictures)"
        )
        for where in self.untouched:
            typer.echo(f"  {where}")
        typer.echo(
            f"smaller than that: {len(self.small)}; less than a third in sight: {self.hidden_untouched} of {self.hidden}"
        )


def _print_false_alarms(models: FaceModels) -> None:
    """What both passes see on the backgrounds, where no face is."""
    alarms = []
    for name in BACKGROUNDS:
        pixels = _read(_packaged("skimage", f"data/{name}"))
        for scale in (0.5, 1.0, 2.0):
            shown = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            again = getattr(models.detector, "look_again", models.detector.detect)(shown)
            alarms.append((name, scale, len(models.detector.detect(shown)), len(again)))
    wrong = [f"{name} x{scale:g}: {first}, {second}" for name, scale, first, second in alarms if first or second]
    typer.echo(f"backgrounds alone, {len(alarms)} pictures: " + ("; ".join(wrong) or "no face in either pass"))


def _print_cost(portraits: list[Portrait]) -> None:
    """CPU seconds of both passes."""
    typer.echo("| megapixels | min_face px | first pass, s | second pass, s |\n|---|---|---|---|")
    for megapixels in COST_MEGAPIXELS:
        scene = compose(np.random.default_rng(1), portraits, megapixels)
        pixels = scene.pixels
        if megapixels == COST_MEGAPIXELS[0]:
            pixels = cv2.resize(portraits[0].pixels, (335, 410))
        for min_face in COST_MIN_FACES:
            detector = _models(min_face).detector
            seconds = []
            for search in (detector.detect, getattr(detector, "look_again", detector.detect)):
                repeats = 5 if megapixels < 1 else 1
                if repeats > 1:
                    search(pixels)
                started = time.process_time()
                for _ in range(repeats):
                    search(pixels)
                seconds.append((time.process_time() - started) / repeats)
            typer.echo(f"| {megapixels:g} | {min_face} | {seconds[0]:.3f} | {seconds[1]:.3f} |")


if __name__ == "__main__":
    typer.run(main)
