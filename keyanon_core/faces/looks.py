"""How a picture of any size is shown to a detection network: at full resolution, in overlapping tiles, at several scales.

A network sees faces of a limited range of sizes, so a picture is shown as a pyramid. Each level looks after a range of
face sizes, and its tiles overlap by more than the largest of them: a face of any size lies whole in some tile of some
level. Cost is linear in the picture's pixels, memory is bounded by a tile.

A network is asked for what it doubts as well as for what it is sure of: see `closer`.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces.detection import Face, Pixels, mirrored

DEFAULT_MIN_FACE = 16  # px; height of the smallest face that is searched for
MIN_FACE_LIMITS = (4, 1024)  # px; sensible choices of it
LEVEL_STEP = 4.0  # each level of the pyramid is this much coarser than the one before
SINGLE_PASS_SIDE = 640  # px; a level of up to this long side is the last
COARSE_SIDE = 512  # px; long side of the last level where there is more than one
ENLARGED_SIDE = 320  # px; smaller pictures are enlarged up to this long side
MAX_ENLARGEMENT = 4.0
TILE_OVERLAP = 192  # px as shown
TILED_FACE_PX = 176.0  # as shown; larger faces are left to coarser levels where a level has tiles
CORE_MARGIN = 16.0  # px as shown: two tiles may disagree by this much about whose side of their seam a face is on
MAX_FACE_PX = 450.0  # as shown, the same where a level is seen in one piece
FRAGMENT_SHARE = 0.25  # parts of a face too large for a level are at least this share of its height
MIN_DOUBTS = 8  # the same, of a tile however small
MAX_CANDIDATES = 4000  # of which the network is sure, per tile; a picture with more is refused
MAX_DOUBTS_PER_MEGAPIXEL = 100  # as shown, the best of each tile; bounds the time spent on closer looks at clutter
SPARE_DOUBTS = 10  # times as many are kept for tiles in which the closer looks go on confirming faces: a crowd
DOUBT_DISTANCE = 0.5  # of its size: a weaker doubt nearer to a stronger one is the same doubt


@dataclass(frozen=True)
class Candidates:
    """What a network saw: boxes (n, 4), landmarks (n, 5, 2), scores (n,), float64, in the px of what it was shown."""

    boxes: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Raise FaceModelError for what is not a number: dropped, it would be a face that nobody sees."""
        if not all(np.isfinite(values).all() for values in (self.boxes, self.landmarks, self.scores)):
            raise FaceModelError("a detection network's answer is not a number")


Network = Callable[[Pixels, float], Candidates]
"""Shown (h, w, 3) uint8 and the lowest score that is of interest."""


@dataclass(frozen=True)
class Search:
    """One way of going through a picture.

    shown: px at which a face of the smallest size is shown. tile: px, longest side of a tile as shown. mirrored: whether
    left and right are exchanged. gamma: exponent of the values in [0, 1]; below 1 what is dark is shown lighter. sure: score from
    which a candidate is a face. doubt: score from which it is worth a closer look.
    confirmed: mean score of the closer looks from which a doubt is a face. turns: degrees by which a doubt is turned to find out
    how it stands; none for a network whose landmarks tell. views: side in px, and whether mirrored, of the upright views. hinted:
    what `confirmed` is for a doubt for which something else speaks; None for the same.
    """

    shown: float
    tile: int
    mirrored: bool
    gamma: float
    sure: float
    doubt: float
    confirmed: float
    turns: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
    views: tuple[tuple[int, bool], ...] = ((96, False), (192, False), (96, True))
    hinted: float | None = None


@dataclass(frozen=True)
class Seen:
    """A candidate in picture px and the scale of the level on which it was seen.

    tile: number of the tile in which it was seen; those of one tile are in order, best first. spare: whether it is a doubt beyond
    the limit.
    """

    face: Face
    scale: float
    tile: int = 0
    spare: bool = False

    @property
    def height(self) -> float:
        """Of its box, in picture px."""
        return self.face.box[3] - self.face.box[1]


@dataclass(frozen=True)
class _Tile:
    """A part of a picture, (x0, y0, x1, y1) px, of which the part `core` is its own: cores cover a picture without overlap."""

    window: tuple[int, int, int, int]
    core: tuple[float, float, float, float]


def check_min_face(min_face: int) -> None:
    """Raise FaceModelError unless it is a size in px that can be searched for."""
    least, most = MIN_FACE_LIMITS
    if not least <= min_face <= most:
        raise FaceModelError(f"min_face {min_face} px is out of range; choose {least} to {most}")


def look(pixels: Pixels, network: Network, search: Search, min_face: int) -> list[Seen]:
    """All candidates of an (H, W, 3) uint8 picture on all levels, most of them several times, in no order.

    Raises PictureError ("too_many_faces").
    """
    height, width = pixels.shape[:2]
    if min(height, width) == 0:
        return []
    scales = _levels(max(height, width), search.shown / min_face)
    seen: list[Seen] = []
    numbers = itertools.count()
    for position, scale in enumerate(scales):
        tiles = list(_tiles(height, width, scale, search.tile))
        largest = math.inf if position == len(scales) - 1 else TILED_FACE_PX if len(tiles) > 1 else MAX_FACE_PX
        for tile in tiles:
            number = next(numbers)
            for face, spare in _look_at_tile(pixels, network, search, scale, tile):
                if max(face.box[2] - face.box[0], face.box[3] - face.box[1]) * scale <= largest:
                    seen.append(Seen(face, scale, number, spare))
    return _without_fragments(seen, search.sure)


def lightened(network: Network, gamma: float) -> Network:
    """The network behind a change of all values: x -> x^gamma."""
    if gamma == 1.0:
        return network
    values = np.rint(255.0 * (np.arange(256) / 255.0) ** gamma).astype(np.uint8)
    return lambda pixels, lowest: network(values[pixels], lowest)


def _levels(long_side: int, finest: float) -> list[float]:
    """Scales at which a picture is shown, the finest first."""
    scales = [max(finest, min(ENLARGED_SIDE / long_side, MAX_ENLARGEMENT))]
    while long_side * scales[-1] > SINGLE_PASS_SIDE:
        scales.append(max(scales[-1] / LEVEL_STEP, COARSE_SIDE / long_side))
    return scales


def _tiles(height: int, width: int, scale: float, side: int) -> Iterator[_Tile]:
    """Tiles of nearly equal size that are at most about `side` px as shown and overlap by TILE_OVERLAP."""
    rows, columns = (_spans(length, side / scale, TILE_OVERLAP / scale) for length in (height, width))
    for y0, y1, top, bottom in rows:
        for x0, x1, left, right in columns:
            yield _Tile((x0, y0, x1, y1), (left, top, right, bottom))


def _spans(length: int, side: float, overlap: float) -> list[tuple[int, int, float, float]]:
    """Start, end, and start and end of the core of the tiles along one axis of `length` px."""
    count = max(math.ceil((length - overlap) / (side - overlap)), 1)
    each = (length + (count - 1) * overlap) / count
    starts = [math.floor(i * (each - overlap)) for i in range(count)]
    ends = [min(math.ceil(i * (each - overlap) + each), length) for i in range(count)]
    seams = [(ends[i] + starts[i + 1]) / 2 for i in range(count - 1)]
    return list(zip(starts, ends, [-math.inf, *seams], [*seams, math.inf], strict=True))


def _look_at_tile(
    pixels: Pixels, network: Network, search: Search, scale: float, tile: _Tile
) -> list[tuple[Face, bool]]:
    """Show one tile; faces in picture px whose centres lie in its core or at most CORE_MARGIN beside it, best first, and whether
    they are spare.
    """
    x0, y0, x1, y1 = tile.window
    width, height = x1 - x0, y1 - y0
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shown = pixels[y0:y1, x0:x1]
    if size != (width, height):
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if search.mirrored:
        shown = shown[:, ::-1]
    candidates = _touching(network(np.ascontiguousarray(shown), search.doubt), size)
    if (sure := int((candidates.scores >= search.sure).sum())) > MAX_CANDIDATES:
        raise PictureError("too_many_faces", f"{sure} faces in one tile, more than {MAX_CANDIDATES}")
    limit = max(size[0] * size[1] * 1e-6 * MAX_DOUBTS_PER_MEGAPIXEL, MIN_DOUBTS)
    chosen = _strongest(candidates, search.sure, SPARE_DOUBTS * limit)
    # pixel centres are at whole numbers, so the scale acts about the point (-0.5, -0.5)
    ratio, origin = np.array([width / size[0], height / size[1]]), np.array([x0, y0])
    margin = CORE_MARGIN / scale
    left, top, right, bottom = (
        tile.core[0] - margin,
        tile.core[1] - margin,
        tile.core[2] + margin,
        tile.core[3] + margin,
    )
    faces = []
    for position, index in enumerate(chosen):
        box, landmarks = candidates.boxes[index].reshape(2, 2), candidates.landmarks[index]
        if search.mirrored:
            box, landmarks = mirrored(box, landmarks, size[0])
        box, landmarks = (box + 0.5) * ratio - 0.5 + origin, (landmarks + 0.5) * ratio - 0.5 + origin
        x, y = box.mean(0)
        if left <= x < right and top <= y < bottom and (box[1] - box[0] >= 1).all():
            (bx0, by0), (bx1, by1) = box.tolist()
            face = Face((bx0, by0, bx1, by1), landmarks, float(candidates.scores[index]))
            faces.append((face, position >= sure + limit))
    return faces


def _touching(candidates: Candidates, size: tuple[int, int]) -> Candidates:
    """Those whose boxes touch what was shown, `size` (width, height) px."""
    boxes = candidates.boxes.reshape(-1, 2, 2)
    usable = (boxes[:, 1] > 0).all(1) & (boxes[:, 0] < [size[0] - 1, size[1] - 1]).all(1)
    return Candidates(candidates.boxes[usable], candidates.landmarks[usable], candidates.scores[usable])


def _strongest(candidates: Candidates, sure: float, limit: float) -> list[int]:
    """Indices of all sure candidates, and of the best doubts that are not beside a better one, `limit` at most."""
    order = np.argsort(-candidates.scores, kind="stable")
    count = int((candidates.scores >= sure).sum())
    kept = [int(index) for index in order[:count]]
    boxes = candidates.boxes.reshape(-1, 2, 2)
    centres, sizes = boxes.mean(1), (boxes[:, 1] - boxes[:, 0]).max(1)
    doubts: list[int] = []
    for index in order[count:]:
        if len(doubts) >= limit:
            break
        distances = np.abs(centres[doubts] - centres[index]).max(1)
        if not (distances < DOUBT_DISTANCE * np.minimum(sizes[doubts], sizes[index])).any():
            doubts.append(int(index))
    return kept + doubts


def _without_fragments(seen: list[Seen], sure: float) -> list[Seen]:
    """Candidates without what a level makes of parts of faces that are too large for it."""
    finest = max((one.scale for one in seen), default=0.0)
    large = [one for one in seen if one.face.score >= sure and one.height * finest > MAX_FACE_PX]

    def is_fragment(one: Seen) -> bool:
        x0, y0, x1, y1 = one.face.box
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return any(
            other.height * one.scale > MAX_FACE_PX
            and other.face.box[0] < x < other.face.box[2]
            and other.face.box[1] < y < other.face.box[3]
            and one.height > FRAGMENT_SHARE * other.height
            for other in large
            if other.scale < one.scale
        )

    return [one for one in seen if not is_fragment(one)]
