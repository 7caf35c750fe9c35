"""Files that say where faces are, or what to leave alone: CSV or COCO JSON, whose names are image ids.

A file is input like the pictures: it is read whole before anything runs, and what is wrong with it is refused by line and field.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs.errors import SourceError
from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import LANDMARK_COUNT
from keyanon_core.faces.given import MAX_BOXES, GivenFace, check_face

MAX_FILE_BYTES: Final = 512 * 1024 * 1024  # of a file of boxes
CORNERS: Final = ("x0", "y0", "x1", "y1")
CSV_COLUMNS: Final = ("file", *CORNERS)
LANDMARK_NUMBERS: Final = 2 * LANDMARK_COUNT
COCO_KEYPOINT_NUMBERS: Final = 3 * LANDMARK_COUNT  # x, y, visibility
FACE_CATEGORY: Final = "face"  # of a COCO file; where it has several, the one whose boxes are faces
NAMES_SHOWN: Final = 3  # of categories in a message


@dataclass(frozen=True)
class PictureBoxes:
    """What one file says of one picture. size: (width, height) px, where the file gives it."""

    faces: list[GivenFace] = field(default_factory=list)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class BoxFile:
    """A file of boxes. by_id: of each picture that has one. digest: sha256 of the file."""

    path: Path
    by_id: Mapping[str, PictureBoxes]
    digest: str


def read_boxes(path: Path, *, regions: bool) -> BoxFile:
    """Read a file of boxes. regions: boxes need not be faces' (`keep`).

    Raises SourceError: the file can not be read, is neither CSV nor COCO JSON, or has a bad line or annotation.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SourceError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} that a file of boxes may have")
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path} can not be read as a file of boxes ({error}); give CSV or COCO JSON in UTF-8"
        ) from error
    lines = _coco(path, text, regions) if text.lstrip()[:1] in ("{", "[") else _csv(path, text)
    by_id: dict[str, PictureBoxes] = {}
    for place, name, face, picture_size in lines:
        said = by_id.setdefault(name, PictureBoxes(size=picture_size))
        said.faces.append(face)
        if len(said.faces) > MAX_BOXES:
            raise SourceError(f"{path}, {place}: {name!r} has more than the {MAX_BOXES} boxes allowed for a picture")
    return BoxFile(path, by_id, hashlib.sha256(content).hexdigest())


Line = tuple[str, str, GivenFace, tuple[int, int] | None]  # where it stands, image id, box, size of the picture


def _csv(path: Path, text: str) -> Iterator[Line]:
    """Lines `file,x0,y0,x1,y1` and, where there are landmarks, ten numbers more, empty where a face has none."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if tuple(header[:5]) != CSV_COLUMNS or len(header) not in (5, 5 + LANDMARK_NUMBERS):
            raise SourceError(
                f"{path}, line 1: the header must be {','.join(CSV_COLUMNS)}, and ten columns more where landmarks are given"
            )
        for cells in reader:
            place = f"line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise SourceError(f"{path}, {place}: {len(cells)} fields, and the header has {len(header)}")
            used = cells[1:] if any(cell.strip() for cell in cells[5:]) else cells[1:5]
            numbers = [_number(path, place, name, cell) for name, cell in zip(header[1:], used, strict=False)]
            yield place, _name(path, place, cells[0]), _face(path, place, numbers), None
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _number(path: Path, place: str, name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise SourceError(f"{path}, {place}, {name}: {cell[:40]!r} is not a number") from error


def _coco(path: Path, text: str, regions: bool) -> Iterator[Line]:
    """COCO JSON: `images` (id, file_name, width, height) and `annotations` (image_id, bbox [x, y, w, h], five keypoints)."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON ({error})") from error
    images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    for place, entry in _entries(path, read, "images"):
        name = _name(path, place, entry.get("file_name"))
        identity = _identity(path, place, "id", entry)
        if identity in images:
            raise SourceError(f"{path}, {place}, id: an earlier picture has it as well")
        images[identity] = (name, _size(entry))
    wanted = None if regions else _face_category(path, read)
    for place, entry in _entries(path, read, "annotations"):
        identity = _identity(path, place, "image_id", entry)
        if identity not in images:
            raise SourceError(f"{path}, {place}, image_id: no picture in images has it")
        if wanted is not None and entry.get("category_id") != wanted:
            continue
        if entry.get("iscrowd") and not regions:
            raise SourceError(f"{path}, {place}, iscrowd: its box is a group's; give each face a box of its own")
        name, size = images[identity]
        yield place, name, _face(path, place, [*_corners(path, place, entry), *_keypoints(path, place, entry)]), size


def _entries(path: Path, read: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = read.get(name) if isinstance(read, dict) else None
    if not isinstance(entries, list):
        raise SourceError(f"{path} is no COCO file: it has no list {name!r}")
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise SourceError(f"{path}, {name}[{at}]: not an object")
        yield f"{name}[{at}]", entry


def _identity(path: Path, place: str, name: str, entry: Mapping[str, Any]) -> int | str:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise SourceError(f"{path}, {place}, {name}: missing, or neither a whole number nor text")
    return value


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    given = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (width, height))
    return (int(width), int(height)) if given and width is not None and height is not None else None


def _face_category(path: Path, read: Mapping[str, Any]) -> Any:
    """Id of the category whose boxes are faces; None when all are."""
    categories = [entry for _, entry in _entries(path, {"categories": [], **read}, "categories")]
    faces = [entry.get("id") for entry in categories if str(entry.get("name", "")).lower() == FACE_CATEGORY]
    if len(faces) == 1:
        return faces[0]
    if len(categories) > 1:
        names = ", ".join(str(entry.get("name")) for entry in categories[:NAMES_SHOWN])
        raise SourceError(f"{path}, categories: one must be called {FACE_CATEGORY!r} where there are several ({names})")
    return None


def _corners(path: Path, place: str, entry: Mapping[str, Any]) -> list[Any]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise SourceError(f"{path}, {place}, bbox: must be four numbers x, y, width, height")
    return from_coco(box)


def _keypoints(path: Path, place: str, entry: Mapping[str, Any]) -> list[Any]:
    """Ten numbers of five labelled keypoints; nothing where one is not labelled, or where they are another body's part."""
    points = entry.get("keypoints")
    if points is None:
        return []
    if not isinstance(points, list) or len(points) % 3:
        raise SourceError(f"{path}, {place}, keypoints: must be a list of x, y, visibility for each point")
    if len(points) != COCO_KEYPOINT_NUMBERS or not all(points[2::3]):
        return []
    return [value for at, value in enumerate(points) if at % 3 < 2]


def from_coco(box: Sequence[Any]) -> list[Any]:
    """Corners (x0, y0, x1, y1) of x, y, width, height, px; None, which no check lets through, where there is no sum."""
    x, y, width, height = box
    return [x, y, _sum(x, width), _sum(y, height)]


def _sum(start: Any, length: Any) -> float | None:
    try:
        return float(start) + float(length)
    except (TypeError, ValueError, OverflowError):
        return None


def _face(path: Path, place: str, numbers: Sequence[Any]) -> GivenFace:
    try:
        return check_face(numbers)
    except PictureError as error:
        raise SourceError(f"{path}, {place}: {error}") from error


def _name(path: Path, place: str, name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise SourceError(f"{path}, {place}: the picture's file name is missing")
    return name
