"""Clips: video files. Each piece of a clip (`keyanon_core.clips`) is a row; the clips are joined of the published pieces again.

Listing reads a clip's packets and decodes its first frame; a read task reads its pieces' packets, from the key frame before.
"""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.errors import SourceError
from jobs.names import as_text, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.file_columns import PictureFile
from jobs.sources.given_faces import GivenInput
from jobs.sources.given_names import UnlistedNames
from jobs.sources.given_subjects import SubjectFile, read_subjects
from jobs.sources.picture_files import Contents, Listed, PictureFiles
from jobs.sources.source import listing_digest, raise_fault_of_the_machine
from keyanon_core.clips.form import CONTAINERS, pyav
from keyanon_core.clips.index import PIECE_FRAMES, ClipIndex, Cut, index_clip
from keyanon_core.clips.piece import read_piece
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.errors import PictureError

BUFFER_BYTES: Final = 1024 * 1024  # of one read; FFmpeg asks for less


@dataclass(frozen=True)
class Clip:
    """One listed clip. name: its path below the folder. rows: positions of its pieces in the source's listing. index: None, and
    one row, where it can not be used.
    """

    name: str
    path: str
    rows: range
    version: int
    index: ClipIndex | None


class Clips(PictureFiles):
    """The pieces of clips. The id of one is its clip's path below the folder, and the milliseconds at which it begins."""

    kind = "clips"
    frames_of_a_row = PIECE_FRAMES

    def __init__(self, filesystem: pafs.FileSystem, root: str, paths: Collection[str], config: InputConfig) -> None:
        """root: their folder, or the one clip. Raises SourceError where PyAV is not there."""
        try:
            pyav()
        except PictureError as error:
            raise SourceError(f"{config.photos}: {error}") from error
        self.filesystem, self._found = filesystem, dict[str, tuple[str, ClipIndex]]()
        top = root.rsplit("/", 1)[0] if root in paths else root
        self.prefix = top.rstrip("/") + "/"
        super().__init__(filesystem, self._pieces(paths), config, self.prefix)
        self.clips = sorted(self._clips(), key=lambda clip: clip.rows.start)
        self._known: Mapping[str, str] = {}

    def attach(self, given: GivenInput) -> None:
        """Read whose clips they are. Raises SourceError: as for pictures; for boxes, which are of pictures."""
        if given.boxes is not None or given.keep is not None:
            raise SourceError("boxes and keep are of pictures; the faces of clips are found from frame to frame")
        super().attach(replace(given, subjects=None))
        if given.subjects is None:
            return
        said = read_subjects(given.subjects)
        names = {clip.name for clip in self.clips}
        self.unlisted = [UnlistedNames.of(said.path, said.by_id, names | self.left_out)]
        if not given.of_gone:
            self.unlisted[0].check()
        ids = {clip.name: [self.ids[row] for row in clip.rows] for clip in self.clips}
        of_pieces = {piece: whose for name, whose in said.by_id.items() for piece in ids.get(name, [])}
        self._subjects = SubjectFile(said.path, of_pieces, said.digest)
        self.given_digest = listing_digest([f"subjects\0{said.digest}"])
        self.digest = listing_digest([self.digest, f"subjects\0{said.digest}"])

    def opened(self, path: str) -> Any:
        """A clip's file, to be read. Raises OSError."""
        return _opened(self.filesystem, path)

    def know(self, faces: Mapping[int, PieceFaces]) -> None:
        """From now on blocks say of these rows, by position, which faces they show and whose they are."""
        self._known = {self.ids[row]: said.to_json() for row, said in faces.items()}

    def _said_of(self, image_id: str) -> str | None:
        return self._known.get(image_id)

    def _pieces(self, paths: Collection[str]) -> Iterator[PictureFile]:
        for path in sorted(paths):
            name, size, modified = as_text(path.removeprefix(self.prefix)), 0, 0
            try:
                info = self.filesystem.get_file_info(path)
                size, modified = info.size or 0, info.mtime_ns or 0
                index = self._indexed(info)
            except PictureError as error:
                yield PictureFile(path, name, size, modified, f"{error.reason}: {error}")
                continue
            except (OSError, ValueError, pa.ArrowException) as error:
                raise_fault_of_the_machine(error, path)
                yield PictureFile(path, name, size, modified, f"unreadable: {type(error).__name__}")
                continue
            self._found[name] = (path, index)
            for number, cut in enumerate(index.cuts()):
                image_id = f"{name}/{piece_name(cut)}{suffix_of(path)}"
                yield PictureFile(self.prefix + image_id, image_id, cut.size, modified, offset=number)

    def _indexed(self, info: pafs.FileInfo) -> ClipIndex:
        if info.type != pafs.FileType.File:  # opening a named pipe would wait for ever
            raise PictureError("unreadable", "it is no regular file")
        with _opened(self.filesystem, info.path) as file:
            return index_clip(file, CONTAINERS[suffix_of(info.path)])

    def _clips(self) -> Iterator[Clip]:
        """Each clip, its rows one after the other, since their ids begin with its name."""
        positions: dict[str, list[int]] = {}
        for row in range(self.total):
            if (file := self._files.odd.get(row)) is not None:
                yield Clip(file.image_id, file.path, range(row, row + 1), int(self.versions[row]), None)
            else:
                positions.setdefault(self.ids[row].rsplit("/", 1)[0], []).append(row)
        for name, rows in positions.items():
            path, index = self._found[name]
            if [self._files[row].offset for row in rows] != list(range(len(rows))):
                raise SourceError(f"{name}: its pieces do not stand in the order of their times; let them begin at 0")
            yield Clip(name, path, range(rows[0], rows[-1] + 1), int(self.versions[rows[0]]), index)

    def _contents(self, files: list[Listed]) -> Contents:
        cuts: dict[int, tuple[str, Cut]] = {}
        for one in files:
            if one.failure:
                continue
            path, index = self._found[one.file.image_id.rsplit("/", 1)[0]]
            cuts[one.row] = (path, index.cut(one.file.offset))
        return partial(_read_pieces, self.filesystem, cuts)


def piece_name(cut: Cut) -> str:
    """When a piece begins: milliseconds, so that names stand in order."""
    begin = max(Fraction(cut.times[0]) * cut.form.time_base, Fraction(0))
    return f"{int(begin * 1000):09d}"


def _opened(filesystem: pafs.FileSystem, path: str) -> Any:
    return io.BufferedReader(filesystem.open_input_file(path), BUFFER_BYTES)


def _read_pieces(
    filesystem: pafs.FileSystem, cuts: Mapping[int, tuple[str, Cut]], files: Sequence[Listed]
) -> Iterator[tuple[bytes | None, str]]:
    """The bytes of each piece and "", or None and the reason it can not be used. Raises MachineError."""
    for one in files:
        if one.row not in cuts:
            yield None, one.failure
            continue
        path, cut = cuts[one.row]
        try:
            with _opened(filesystem, path) as file:
                yield read_piece(file, cut), ""
        except PictureError as error:
            yield None, f"{error.reason}: {error}"
        except (OSError, ValueError, pa.ArrowException) as error:
            raise_fault_of_the_machine(error, path)
            yield None, f"unreadable: {type(error).__name__}"
