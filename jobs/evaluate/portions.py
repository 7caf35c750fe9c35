"""What is measured so far, in the output: each block a file, so that a stopped evaluation goes on where it was."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import PublishError
from jobs.evaluate.measure_stage import FACE, PICTURE
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.summary import FaceTable
from keystore.storage import durable

FOLDER: Final = "portions"
_SUFFIX: Final = ".parquet"


class Portions:
    """Files of one folder. They hold identity vectors and views of people in clear: their owner's only."""

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER

    def add(self, table: pa.Table) -> None:
        """Keep a block, durably. Raises OSError."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        durable.make_directory(self.folder)
        first = min(table.column("row").to_pylist())
        durable.replace(self.folder / f"{first:012d}{_SUFFIX}", buffer.getvalue().to_pybytes(), durable.SECRET_MODE)

    def views(self, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], dict[str, bytes]]:
        """The views of some faces, by version. wanted: id of the picture, and the face's index in it."""
        found: dict[tuple[str, int], dict[str, bytes]] = {face: {} for face in wanted}
        for table in self.tables(["image_id", "kind", "face", "version", "view"]):
            for row in table.to_pylist():
                if row["kind"] == FACE and (face := (row["image_id"], row["face"])) in found:
                    found[face][row["version"]] = row["view"]
        return found

    def done(self) -> set[int]:
        """Rows of the source that were measured, or can not be."""
        return {row for table in self.tables(["row"]) for row in table.column("row").to_pylist()}

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """In the order of their rows. Raises PublishError for a damaged file."""
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                yield pq.read_table(path, columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise PublishError(
                    f"{path} can not be read ({error}); remove it, and its pictures are measured again"
                ) from error


@dataclass
class Measured:
    """All that was measured.

    images: id of each face's picture, by the face's number in `faces`. lines: what is published of each face in each version.
    unmeasured: pictures by the code of the reason, with an example of each. missing: versions that pictures lack, by the reason.
    stored_bytes: of each measured picture, by what was stored.
    """

    faces: FaceTable
    images: list[str]
    lines: pa.Table = field(repr=False)
    pictures: int
    unmeasured: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    stored_bytes: dict[str, list[int]] = field(default_factory=dict)


def gathered(portions: Portions) -> Measured:
    """Read everything but the views. Raises PublishError."""
    unmeasured, missing, examples = Counter[str](), Counter[str](), dict[str, str]()
    stored: defaultdict[str, list[int]] = defaultdict(list)
    numbers: dict[tuple[int, int], int] = {}
    images: list[str] = []
    lines: list[dict[str, Any]] = []
    pictures = 0
    columns = ["row", "image_id", "kind", "reason", "missing", "bytes", "face", "version", "tone", "values", "vectors"]
    for table in portions.tables(columns):
        for row in table.to_pylist():
            if row["kind"] == PICTURE and row["reason"]:
                code = row["reason"].split(":")[0]
                unmeasured[code] += 1
                examples.setdefault(code, f"{row['image_id']}: {row['reason']}")
            elif row["kind"] == PICTURE:
                pictures += 1
                missing.update(row["missing"] or ())
                for name, size in row["bytes"]:
                    stored[name].append(size)
            elif row["kind"] == FACE:
                at = (row["row"], row["face"])
                if at not in numbers:
                    numbers[at] = len(images)
                    images.append(row["image_id"])
                vectors = {name: np.asarray(vector, np.float32) for name, vector in row["vectors"]}
                lines.append({**row, "number": numbers[at], "values": dict(row["values"]), "vectors": vectors})
    table = _face_table(lines)
    return Measured(table, images, _published(lines), pictures, unmeasured, examples, missing, dict(stored))


def _face_table(lines: list[dict[str, Any]]) -> FaceTable:
    names = sorted({name for line in lines for name in line["values"]})
    kinds = {name: len(vector) for line in lines for name, vector in line["vectors"].items()}
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for name, size in sorted(kinds.items()):
        vectors[name] = np.full((len(lines), size), np.nan, np.float32)
        for at, line in enumerate(lines):
            if name in line["vectors"]:
                vectors[name][at] = line["vectors"][name]
    return FaceTable(
        np.array([line["number"] for line in lines], np.int64),
        np.array([line["version"] for line in lines], np.str_),
        np.array([line["tone"] for line in lines], np.str_),
        {name: np.array([line["values"].get(name, np.nan) for line in lines], np.float64) for name in names},
        vectors,
    )


def _published(lines: list[dict[str, Any]]) -> pa.Table:
    """One row for each face in each version, without what tells people apart: no vectors, no views."""
    names = sorted({name for line in lines for name in line["values"]})
    columns: dict[str, list[Any]] = {name: [] for name in ("image_id", "face", "version", "tone")}
    shown = [line for line in lines if line["version"] != SOURCE]
    for name in columns:
        columns[name] = [line[name] for line in shown]
    return pa.table({**columns, **{name: [line["values"].get(name) for line in shown] for name in names}})
