"""The faces that a run found in its clips before it anonymizes them, kept in the output until the rows of their clip stand.

So the driver holds nothing of a clip once it was gone through, whoever reads a piece reads its faces here, and a run that is
resumed goes through no clip twice. What is kept are places, landmarks and tracks, without identity vectors; landmarks are
somebody's all the same, and those of quarantined pieces can be seen nowhere else: a run that is complete leaves nothing of it.

    OUT/_keyanon/found-faces/<clip>-<made of>-places/000000.jsonl   of 16 pieces that were seen, a line of places each, or null;
                                                                    gone when the clip is tracked
                             <clip>-<made of>/000000.jsonl          of 16 pieces, a line of `PieceFaces` for each, or null
                                              whole.json            written last: all of the clip's are there

What a clip's faces were made of is part of the name, so that nothing is taken for another clip's, or another detector's.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from jobs.errors import MachineError
from jobs.output.layout import RUN_DIRECTORY
from jobs.storage.json_files import to_json
from jobs.storage.store import Store
from keyanon_core.clips.whose import PieceFaces

FOUND_FACES: Final = f"{RUN_DIRECTORY}/found-faces"
FORMAT_VERSION: Final = 2  # of these files; part of what they are made of
PIECES_OF_A_FILE: Final = 16
WHOLE: Final = "whole.json"
PLACES: Final = "-places"
NOTHING: Final = "null"  # of a piece that nobody could look through
_CLIP_CHARACTERS, _MADE_OF_CHARACTERS = 16, 32  # of digests


class PlacedFaces(Protocol):
    """Faces of a piece that was seen."""

    def places(self) -> str:
        """JSON of where they are."""
        ...


@dataclass(frozen=True)
class FoundFaces:
    """Those of one clip; travels to the read tasks. folder: right below `FOUND_FACES`."""

    store: Store
    folder: str

    @classmethod
    def of(cls, store: Store, clip: str, made_of: str) -> "FoundFaces":
        """clip: its name. made_of: SHA-256, in hexadecimal, of all that decides which faces are found."""
        return cls(store, f"{_clip_digest(clip)}-{made_of[:_MADE_OF_CHARACTERS]}")

    def are_whole(self, pieces: int, files: Collection[str]) -> bool:
        """Whether all that was kept of a clip of so many pieces is there. files: as of `found_files`."""
        return all(f"{self.folder}/{name}" in files for name in [*_file_names(pieces), WHOLE])

    def keep(self, faces: Iterable[PieceFaces | None]) -> None:
        """Write the faces of all pieces of the clip in their order, anew where an attempt was killed at it. None: nobody could
        look through a piece. Raises OSError, MachineError."""
        folder = f"{FOUND_FACES}/{self.folder}"
        self.store.remove_folder(folder)
        self.store.make_folder(folder)
        lines = (None if one is None else one.to_json() for one in faces)
        pieces = 0
        while some := list(islice(lines, PIECES_OF_A_FILE)):
            self.write(f"{folder}/{_file_name(pieces)}", some)
            pieces += len(some)
        self.store.create(f"{folder}/{WHOLE}", to_json({"version": FORMAT_VERSION, "pieces": pieces}))
        self.store.remove_folder(f"{folder}{PLACES}")

    def placed(self, files: Collection[str]) -> "FoundPlaces":
        """What was kept before all of the clip was seen. files: as of `found_files`."""
        folder = f"{self.folder}{PLACES}/"
        return FoundPlaces(self, frozenset(name.removeprefix(folder) for name in files if name.startswith(folder)))

    def said(self, numbers: Sequence[int]) -> list[str | None]:
        """What is said of the faces of some pieces, by their numbers in the clip: JSON of `PieceFaces`, or None where nobody
        could look through one.

        Raises MachineError where it is not there, or can not be read.
        """
        return self.lines(self.folder, numbers)

    def write(self, name: str, lines: Iterable[str | None]) -> None:
        """One file. Raises OSError, MachineError."""
        self.store.create(name, "\n".join(NOTHING if line is None else line for line in lines).encode())

    def lines(self, folder: str, numbers: Sequence[int]) -> list[str | None]:
        """Of some pieces, the lines of the files in a folder below `FOUND_FACES`. Raises as `said`."""
        names = sorted({_file_name(number) for number in numbers})
        try:
            contents = self.store.read_all([f"{FOUND_FACES}/{folder}/{name}" for name in names])
        except OSError as error:
            raise MachineError(
                f"{self.store.full(FOUND_FACES)} can not be read ({error.strerror}); see to it, then run the same command again"
            ) from error
        found = {name: content for name, content in zip(names, contents, strict=True) if content is not None}
        return [self._line(folder, found, number) for number in numbers]

    def _line(self, folder: str, found: dict[str, bytes], number: int) -> str | None:
        name = _file_name(number)
        lines = found[name].decode().split("\n") if name in found else []
        if number % PIECES_OF_A_FILE >= len(lines):
            file = self.store.full(f"{FOUND_FACES}/{folder}/{name}")
            raise MachineError(f"{file} was taken away or cut while the run was at it; run the same command again")
        line = lines[number % PIECES_OF_A_FILE]
        return None if line == NOTHING else line


@dataclass(frozen=True)
class FoundPlaces:
    """Where faces are in the pieces of a clip that was not seen whole; travels to the read tasks. found: of the clip. files:
    names of what was there when the attempt began.
    """

    found: FoundFaces
    files: frozenset[str]

    def keep(self, rows: range, seen: Mapping[int, PlacedFaces | None], row: int) -> None:
        """Write the places of one file's pieces, if they were all seen, and are not kept already. rows: of the whole clip. seen:
        by row. row: of the piece that was seen last. Raises OSError, MachineError."""
        first = (row - rows.start) // PIECES_OF_A_FILE * PIECES_OF_A_FILE
        those = rows[first : first + PIECES_OF_A_FILE]
        if _file_name(first) not in self.files and all(one in seen for one in those):
            folder = f"{FOUND_FACES}/{self.found.folder}{PLACES}"
            self.found.store.make_folder(folder)
            places = (None if (piece := seen[one]) is None else piece.places() for one in those)
            self.found.write(f"{folder}/{_file_name(first)}", places)

    def said(self, numbers: Sequence[int]) -> list[str | None]:
        """What was kept of some pieces, by their numbers; None where nothing was. Raises MachineError."""
        there = [number for number in numbers if _file_name(number) in self.files]
        lines = dict(zip(there, self.found.lines(f"{self.found.folder}{PLACES}", there), strict=True))
        return [lines.get(number) for number in numbers]


def found_files(store: Store) -> set[str]:
    """Names of all files of found faces, below `FOUND_FACES`. Raises OSError, MachineError."""
    return {name.removeprefix(f"{FOUND_FACES}/") for name, _ in store.sizes(FOUND_FACES)}


def forget_others(store: Store, needed: Collection[str], files: Collection[str]) -> None:
    """Remove all that was kept, but for the folders that are needed, and the places of their clips. files: as of `found_files`.
    Raises OSError, MachineError."""
    for folder in sorted({name.split("/")[0] for name in files}):
        if folder.removesuffix(PLACES) not in needed:
            store.remove_folder(f"{FOUND_FACES}/{folder}")


def forget_clips(store: Store, names: Iterable[str]) -> None:
    """Remove what was kept of clips all of whose rows stand. Raises OSError, MachineError."""
    done = {_clip_digest(name) for name in names}
    folders = {name.split("/")[0] for name in found_files(store)}
    for folder in sorted(folder for folder in folders if folder.split("-")[0] in done):
        store.remove_folder(f"{FOUND_FACES}/{folder}")


def forget_all(store: Store) -> None:
    """Remove whatever was kept of any clip. Raises MachineError."""
    store.remove_folder(FOUND_FACES)


def _clip_digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_CLIP_CHARACTERS]


def _file_name(number: int) -> str:
    return f"{number // PIECES_OF_A_FILE:06d}.jsonl"


def _file_names(pieces: int) -> Iterator[str]:
    return map(_file_name, range(0, pieces, PIECES_OF_A_FILE))
