"""What users say about faces: where they are, what to leave alone, whose keys to forget.

Beside a folder lies a file of boxes; Parquet has a column, of which a bad cell costs its row.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from jobs.errors import SourceError
from jobs.sources.box_files import CORNERS, BoxFile, from_coco, read_boxes
from keyanon_core.errors import PictureError
from keyanon_core.faces.given import BAD_FACES, MAX_BOXES, GivenFace, GivenFaces, check_face

COCO_CORNERS: Final = ("x", "y", "w", "h")
LANDMARKS: Final = "landmarks"  # field of a struct column
BAD_PERMANENT: Final = "bad_permanent"


@dataclass(frozen=True)
class GivenInput:
    """Where a run finds what its user says: files beside a folder, columns of Parquet.

    of_gone: the files may name pictures that are not in the listing any more, see `Source.unlisted`.
    """

    boxes: Path | None = None
    keep: Path | None = None
    subjects: Path | None = None
    boxes_column: str | None = None
    keep_column: str | None = None
    permanent_column: str | None = None
    of_gone: bool = False

    def columns(self) -> dict[str, str]:
        """Setting and name of each column that is asked for."""
        names = ("boxes_column", "keep_column", "permanent_column")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class GivenFiles:
    """The files of boxes beside a folder."""

    boxes: BoxFile | None = None
    keep: BoxFile | None = None

    @classmethod
    def read(cls, given: GivenInput) -> "GivenFiles":
        """Raises SourceError for a file that can not be read or has a bad box, naming line and field; and for columns."""
        for setting, name in given.columns().items():
            raise SourceError(
                f"{setting} {name!r} is of Parquet, and the input is pictures; give a file of boxes instead"
            )
        boxes = read_boxes(given.boxes, regions=False) if given.boxes is not None else None
        keep = read_boxes(given.keep, regions=True) if given.keep is not None else None
        for name in set(boxes.by_id if boxes else ()) & set(keep.by_id if keep else ()):
            sizes = [file.by_id[name].size for file in (boxes, keep) if file is not None]
            if None not in sizes and sizes[0] != sizes[1]:
                raise SourceError(f"{given.boxes} and {given.keep} say that {name!r} is of different sizes ({sizes})")
        return cls(boxes, keep)

    def names(self) -> list[tuple[Path, Collection[str]]]:
        """Each file with the ids that it names."""
        return [(file.path, file.by_id) for file in (self.boxes, self.keep) if file is not None]

    def digests(self) -> list[str]:
        """What a resumed run must have the same, one line for each file."""
        files = {"boxes": self.boxes, "keep": self.keep}
        return [f"{name}\0{file.digest}" for name, file in files.items() if file is not None]

    def of(self, image_id: str) -> str | None:
        """What is said of a picture, as `GivenFaces.from_json` reads it; None when nothing is."""
        found = [file.by_id.get(image_id) if file is not None else None for file in (self.boxes, self.keep)]
        sizes = [said.size for said in found if said is not None and said.size is not None]
        if not any(found):
            return None
        faces, kept = (() if said is None else tuple(said.faces) for said in found)
        return GivenFaces(faces, tuple(face.box for face in kept), sizes[0] if sizes else None).to_json()


def check_column(path: str, setting: str, field: pa.Field) -> None:
    """Raise SourceError for a Parquet column whose type can not hold what the setting reads from it."""
    if setting == "permanent_column":
        if not pt.is_boolean(field.type):
            raise SourceError(f"{path}: column {field.name!r} is {field.type}; {setting} must be true or false (bool)")
        return
    kind = field.type.value_type if _is_list(field.type) else None
    if kind is None or not (_is_box_struct(kind) or (_is_list(kind) and _is_number(kind.value_type))):
        raise SourceError(
            f"{path}: column {field.name!r} is {field.type}; {setting} must be a list of boxes: each a list of 4 numbers "
            f"({', '.join(CORNERS)}), of 14 with five landmarks, or a struct of {', '.join(CORNERS)} or "
            f"{', '.join(COCO_CORNERS)}, with landmarks as a list of ten numbers"
        )


def given_in_row(faces: Any, keep: Any) -> tuple[str | None, str]:
    """What two cells of Parquet say of a picture, as `GivenFaces.from_json` reads it, or None; and "", or why its row is
    quarantined. A null cell says nothing."""
    read: list[list[GivenFace]] = []
    for column, cell in (("boxes", faces), ("keep", keep)):
        boxes = [] if cell is None else cell
        if len(boxes) > MAX_BOXES:
            return None, f"{BAD_FACES}: {column}: {len(boxes)} boxes, more than the {MAX_BOXES} allowed for a picture"
        found = []
        for at, box in enumerate(boxes):
            try:
                found.append(check_face(_numbers(box)))
            except PictureError as error:
                return None, f"{BAD_FACES}: {column}, box {at}: {error}"
        read.append(found)
    if not any(read):
        return None, ""
    return GivenFaces(tuple(read[0]), tuple(face.box for face in read[1])).to_json(), ""


def permanent_in_row(cell: bool | None) -> tuple[bool, str]:
    """Whether a row's key is to be forgotten; and "", or why the row is quarantined. Null decides for neither: one way keeps a
    key that nobody wanted kept, the other can not be undone."""
    return bool(cell), f"{BAD_PERMANENT}: the permanent column is null here; say true or false" if cell is None else ""


def _numbers(box: Any) -> list[Any]:
    """The 4 or 14 numbers of one box of a Parquet cell. Raises PictureError ("bad_faces")."""
    if box is None:
        raise PictureError(BAD_FACES, "it is null")
    if not isinstance(box, dict):
        return list(box)
    corners = [box[name] for name in CORNERS] if CORNERS[2] in box else from_coco([box[n] for n in COCO_CORNERS])
    return [*corners, *_flat(box.get(LANDMARKS) or [])]


def _flat(landmarks: Iterable[Any]) -> list[Any]:
    """Ten numbers of a list of ten, or of five pairs."""
    return [number for one in landmarks for number in (one if isinstance(one, list) else [one])]


def _is_box_struct(kind: pa.DataType) -> bool:
    if not pt.is_struct(kind):
        return False
    fields = {part.name: part.type for part in kind}
    numbers = any(all(n in fields and _is_number(fields[n]) for n in names) for names in (CORNERS, COCO_CORNERS))
    landmarks = fields.get(LANDMARKS)
    if landmarks is None:
        return numbers
    inner = landmarks.value_type if _is_list(landmarks) else None
    pairs = inner is not None and _is_list(inner) and _is_number(inner.value_type)
    return numbers and inner is not None and (_is_number(inner) or pairs)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind))
