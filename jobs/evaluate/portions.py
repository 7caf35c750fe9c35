"""What is measured so far, in the output: each block a file, so that a stopped evaluation goes on where it was."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import PublishError
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.groups import UNKNOWN, labels_of
from keyanon_core.evaluation.people import People
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

    def views(self, wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], dict[str, bytes]]:
        """The views of some faces, by version. wanted: row of the picture, and the face's index in it."""
        found: dict[tuple[int, int], dict[str, bytes]] = {face: {} for face in wanted}
        for table in self.tables(["row", "faces"]):
            rows, faces = _faces(table)
            indices, versions = (pc.struct_field(faces, name).to_pylist() for name in ("face", "version"))
            views = pc.struct_field(faces, "view")
            for at, face in enumerate(zip(rows.tolist(), indices, strict=True)):
                if face in found:
                    found[face][versions[at]] = views[at].as_py()
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

    images: id of each face's picture, by the face's number in `faces`; rows, indices: row of that picture, and which of its faces
    it is. unmeasured: pictures by the code of the reason, with an example of each. missing: versions that pictures lack, by the
    reason. stored_bytes: of each measured picture, by what was stored. people: whom pictures are said to show, each with the
    number that `faces` has for them.
    """

    faces: FaceTable
    images: list[str]
    rows: list[int]
    indices: list[int]
    pictures: int = 0
    unmeasured: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    stored_bytes: dict[str, list[int]] = field(default_factory=dict)
    people: dict[str, int] = field(default_factory=dict)

    def divide(self, traits: Mapping[str, Mapping[str, str]]) -> None:
        """Say of each face in which groups it is. traits: by name, the group of pictures by their ids; of several faces in one
        picture any may be who is meant, so that none is in a group."""
        ids, alone = [self.images[face] for face in self.faces.face.tolist()], self.faces.people.alone
        labels = {name: np.where(alone, labels_of(ids, groups), UNKNOWN) for name, groups in traits.items()}
        self.faces = replace(self.faces, traits=labels)

    @property
    def lines(self) -> pa.Table:
        """One row for each face in each version, without what tells people apart: no vectors, no views."""
        shown = self.faces.rows(self.faces.version != SOURCE)
        columns = {"image_id": pa.array(self.images), "face": pa.array(self.indices, pa.int32())}
        return pa.table(
            {
                **{name: column.take(pa.array(shown.face)) for name, column in columns.items()},
                "version": shown.version,
                "tone": shown.tone,
                **{f"group:{name}": labels for name, labels in shown.traits.items()},
                **{name: pa.array(values, from_pandas=True) for name, values in shown.values.items()},
            }
        )


def gathered(portions: Portions) -> Measured:
    """Read everything but the views. Raises PublishError."""
    found = Measured(FaceTable.joined([]), [], [], [])
    parts: list[FaceTable] = []
    for table in portions.tables():
        for row in table.drop_columns("faces").to_pylist():
            _count(found, row)
        parts.append(_face_table(table, found))
    found.faces = FaceTable.joined(parts)
    return found


def _count(found: Measured, row: Mapping[str, Any]) -> None:
    """Add what is told of one picture."""
    if row["reason"]:
        code = row["reason"].split(":")[0]
        found.unmeasured[code] += 1
        found.examples.setdefault(code, f"{row['image_id']}: {row['reason']}")
        return
    found.pictures += 1
    found.missing.update(row["missing"])
    for name, size in row["bytes"]:
        found.stored_bytes.setdefault(name, []).append(size)


def _face_table(table: pa.Table, found: Measured) -> FaceTable:
    """The faces of some pictures, which are numbered after those that `found` has, and added to them."""
    rows, faces = _faces(table)
    indices = pc.struct_field(faces, "face").to_numpy()
    of_each, numbers = np.unique(rows << 32 | indices, return_inverse=True)
    first = len(found.images)
    ids = dict(zip(table.column("row").to_pylist(), table.column("image_id").to_pylist(), strict=True))
    found.rows += (of_each >> 32).tolist()
    found.indices += (of_each & 0xFFFFFFFF).tolist()
    found.images += [ids[row] for row in found.rows[first:]]
    of_picture, their_faces = np.unique(found.rows[first:], return_counts=True)
    shown, alone = _subjects(table, found), dict(zip(of_picture.tolist(), (their_faces == 1).tolist(), strict=True))
    people = People(
        np.array([shown[row] for row in rows.tolist()], np.int64), np.array([alone[row] for row in rows.tolist()])
    )
    return FaceTable(
        first + numbers,
        np.array(pc.struct_field(faces, "version").to_pylist(), np.str_),
        np.array(pc.struct_field(faces, "tone").to_pylist(), np.str_),
        {
            name: held.to_numpy(zero_copy_only=False).astype(np.float64)
            for name, held in _by_name(pc.struct_field(faces, "values"))
        },
        {name: _stacked(held) for name, held in _by_name(pc.struct_field(faces, "vectors"))},
        people,
    )


def _subjects(table: pa.Table, found: Measured) -> dict[int, int]:
    """The number of the person whom each picture is said to show, by its row; -1 where nothing is said, or was not kept by older
    versions."""
    rows = table.column("row").to_pylist()
    said = table.column("subject").to_pylist() if "subject" in table.column_names else [None] * len(rows)
    return {
        row: -1 if subject is None else found.people.setdefault(subject, len(found.people))
        for row, subject in zip(rows, said, strict=True)
    }


def _faces(table: pa.Table) -> tuple[npt.NDArray[np.int64], pa.StructArray]:
    """Row of the picture of each face in each version, and what is told of it."""
    column = table.column("faces").combine_chunks()
    return table.column("row").to_numpy()[pc.list_parent_indices(column).to_numpy()], pc.list_flatten(column)


def _by_name(maps: pa.MapArray) -> Iterator[tuple[str, pa.Array]]:
    """What maps hold by each of their names, null where they do not."""
    for name in sorted(pc.unique(maps.keys).to_pylist()):
        yield name, pc.map_lookup(maps, pa.scalar(name), "first")


def _stacked(held: pa.ListArray) -> npt.NDArray[np.float32]:
    """Vectors (n, d), of NaN where there is none."""
    there = held.is_valid().to_numpy(zero_copy_only=False)
    vectors = pc.list_flatten(held).to_numpy().reshape(int(there.sum()), -1)
    stacked = np.full((len(held), vectors.shape[1]), np.nan, np.float32)
    stacked[there] = vectors
    return stacked
