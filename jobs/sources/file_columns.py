"""Listed files by column, some 100 bytes each: a folder may hold millions."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FILES_AT_ONCE: Final = 65_536  # that are objects of Python's while they are listed, or gone through


@dataclass(frozen=True)
class PictureFile:
    """One listed file. path: as the file system wants it. failure: why it is not even opened, or "". unread: it stands for all
    that lies in a folder that can not be read. offset: where in a tar shard its bytes begin."""

    path: str
    image_id: str
    size: int
    modified_ns: int
    failure: str = ""
    unread: bool = False
    offset: int = 0


@dataclass(frozen=True)
class FileColumns:
    """Files in the order of their paths. odd: those that have a failure, or a path that is not `prefix` and their id."""

    prefix: str
    ids: pa.Array
    sizes: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    odd: Mapping[int, PictureFile]

    @classmethod
    def of(cls, files: Iterable[PictureFile], prefix: str | None = None) -> "FileColumns":
        """Of files in any order, taken one by one. prefix: of all their paths; None takes that of the first."""
        listed, odd, parts = iter(files), list[PictureFile](), [_SCHEMA.empty_table()]
        while some := list(islice(listed, FILES_AT_ONCE)):
            prefix = some[0].path.removesuffix(some[0].image_id) if prefix is None else prefix
            which = []
            for file in some:
                regular = not file.failure and file.path == prefix + file.image_id
                which.append(-1 if regular else len(odd))
                if not regular:
                    odd.append(file)
            columns = {
                "below": [_bytes(file.path.removeprefix(prefix)) for file in some],
                "id": [file.image_id for file in some],
                "size": [file.size for file in some],
                "time": [file.modified_ns for file in some],
                "offset": [file.offset for file in some],
                "odd": which,
            }
            parts.append(pa.table(columns, schema=_SCHEMA))
        table = pa.concat_tables(parts).sort_by("below").drop_columns(["below"]).combine_chunks()
        ids, which_odd = table.column("id"), table.column("odd").to_numpy()
        return cls(
            prefix or "",
            ids.chunk(0) if ids.num_chunks else pa.array([], pa.large_string()),
            table.column("size").to_numpy(),
            table.column("time").to_numpy(),
            table.column("offset").to_numpy(),
            {at: odd[which_odd[at]] for at in np.flatnonzero(which_odd >= 0).tolist()},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> PictureFile:
        if at in self.odd:
            return self.odd[at]
        image_id = self.ids[at].as_py()
        size, time, offset = int(self.sizes[at]), int(self.times[at]), int(self.offsets[at])
        return PictureFile(self.prefix + image_id, image_id, size, time, offset=offset)

    def facts(self) -> Iterator[tuple[str, int, int]]:
        """Id, size and time of each file, in order."""
        for start in range(0, len(self), FILES_AT_ONCE):
            part = slice(start, start + FILES_AT_ONCE)
            yield from zip(
                self.ids[part].to_pylist(), self.sizes[part].tolist(), self.times[part].tolist(), strict=True
            )


def positions_of(mask: pa.Array) -> list[int]:
    """Where a column of booleans without nulls is true."""
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


_SCHEMA: Final = pa.schema(
    [
        ("below", pa.large_binary()),
        ("id", pa.large_string()),
        ("size", pa.int64()),
        ("time", pa.int64()),
        ("offset", pa.int64()),
        ("odd", pa.int64()),
    ]
)


def _bytes(path: str) -> bytes:
    """Paths in the order of their bytes, also those that are no text."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")
