"""Clips: video files. Each piece of a clip (`keyanon_core.clips`) is a row; the clips are joined of the published pieces again.

Listing reads a clip's packets and decodes its first frame; a read task reads its pieces' packets, from the key frame before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from jobs.errors import SourceError
from jobs.names import suffix_of
from jobs.sources.clip_files import ClipListing, ClipReader, ListedClip, unreadable
from jobs.sources.config import InputConfig
from jobs.sources.file_columns import PictureFile
from jobs.sources.given_faces import GivenInput
from jobs.sources.given_names import UnlistedNames
from jobs.sources.given_subjects import SubjectFile, read_subjects
from jobs.sources.picture_files import Contents, Listed, PictureFiles, SaidOfFaces
from jobs.sources.source import listing_digest
from keyanon_core.clips.form import CONTAINERS, pyav
from keyanon_core.clips.index import PIECE_FRAMES, ClipIndex, Cut, index_clip
from keyanon_core.clips.piece import read_piece
from keyanon_core.errors import PictureError

SaidOfPieces = Callable[[Sequence[int]], list[str | None]]
"""Gives for pieces of one clip, by their numbers, JSON of `PieceFaces`, None where nothing is said; it is asked in the read
tasks, and raises MachineError."""


@dataclass(frozen=True)
class Clip:
    """One listed clip. name, path: as of `ListedClip`. rows: positions of its pieces in the source's listing. index: None, and
    one row, where it can not be used.
    """

    name: str
    path: str
    rows: range
    version: int
    index: ClipIndex | None


class Clips(PictureFiles):
    """The pieces of clips. The id of one is its clip's name, and the milliseconds at which it begins."""

    kind = "clips"
    frames_of_a_row = PIECE_FRAMES

    def __init__(self, listing: ClipListing, config: InputConfig) -> None:
        """Raises SourceError where PyAV is not there, and what the listing raises."""
        try:
            pyav()
        except PictureError as error:
            raise SourceError(f"{config.photos}: {error}") from error
        self._listing, self._found = listing, dict[str, tuple[str, ClipIndex]]()
        self._origin = Path(config.photos)
        super().__init__(listing.filesystem, self._pieces(listing), config, listing.prefix)
        self.clips = sorted(self._clips(), key=lambda clip: clip.rows.start)
        self._subjects = self._of_column()
        self._known: Mapping[str, SaidOfPieces] = {}

    def attach(self, given: GivenInput) -> None:
        """Read whose clips they are. Raises SourceError: as for pictures; for boxes, which are of pictures."""
        if given.boxes is not None or given.keep is not None:
            raise SourceError("boxes and keep are of pictures; the faces of clips are found from frame to frame")
        super().attach(replace(given, subjects=None))
        self._subjects = self._of_column()
        if given.subjects is None:
            return
        said = read_subjects(given.subjects)
        names = {clip.name for clip in self.clips}
        self.unlisted = [UnlistedNames.of(said.path, said.by_id, names | self.left_out)]
        if not given.of_gone:
            self.unlisted[0].check()
        self._subjects = SubjectFile(said.path, self._by_piece(said.by_id), said.digest)
        self.given_digest = listing_digest([f"subjects\0{said.digest}"])
        self.digest = listing_digest([self.digest, f"subjects\0{said.digest}"])

    @contextmanager
    def opened(self, path: str) -> Iterator[BinaryIO]:
        """A clip's file, to be read. Raises PictureError, MachineError."""
        for _, file in self._listing.reader([path])():
            if isinstance(file, PictureError):
                raise file
            yield file

    def rows_of_clips(self, published: Mapping[str, str]) -> tuple[pa.Schema, Iterator[pa.Table]] | None:
        """See `ClipListing.rows`."""
        return self._listing.rows(published)

    def know(self, said: Mapping[str, SaidOfPieces]) -> None:
        """From now on blocks say of the pieces of these clips, by name, which faces they show and whose they are."""
        self._known = said

    def _said_of(self, files: list[Listed]) -> SaidOfFaces:
        asked: dict[str, dict[int, int]] = {}
        for one in files:
            name = one.file.image_id.rsplit("/", 1)[0]
            if not one.failure and name in self._known:
                asked.setdefault(name, {})[one.row] = one.file.offset
        return partial(_said_of_pieces, [(self._known[name], rows) for name, rows in asked.items()])

    def _of_column(self) -> SubjectFile | None:
        """Whose clips they are by the listing itself."""
        of_clips = self._listing.subjects
        return SubjectFile(self._origin, self._by_piece(of_clips), "") if of_clips else None

    def _by_piece(self, of_clips: Mapping[str, str]) -> dict[str, str]:
        ids = {clip.name: [self.ids[row] for row in clip.rows] for clip in self.clips}
        return {piece: whose for name, whose in of_clips.items() for piece in ids.get(name, [])}

    def _pieces(self, listing: ClipListing) -> Iterator[PictureFile]:
        for one in listing.listed():
            try:
                index = _indexed(one)
            except PictureError as error:
                yield PictureFile(one.path, one.name, one.size, one.modified_ns, f"{error.reason}: {error}")
                continue
            self._found[one.name] = (one.path, index)
            for number, cut in enumerate(index.cuts()):
                image_id = f"{one.name}/{piece_name(cut)}{suffix_of(one.name)}"
                yield PictureFile(listing.prefix + image_id, image_id, cut.size, one.modified_ns, offset=number)

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
        return partial(_read_pieces, self._listing.reader({path for path, _ in cuts.values()}), cuts)


def piece_name(cut: Cut) -> str:
    """When a piece begins: milliseconds, so that names stand in order."""
    begin = max(Fraction(cut.times[0]) * cut.form.time_base, Fraction(0))
    return f"{int(begin * 1000):09d}"


def _indexed(clip: ListedClip) -> ClipIndex:
    """Raises PictureError, MachineError."""
    if isinstance(clip.file, PictureError):
        raise clip.file
    try:
        return index_clip(clip.file, CONTAINERS[suffix_of(clip.name)])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(error, clip.path) from error


def _said_of_pieces(asked: Sequence[tuple[SaidOfPieces, Mapping[int, int]]]) -> dict[int, str]:
    """asked: of each clip what says it, and the numbers of its pieces by their rows."""
    found = ((rows, said(list(rows.values()))) for said, rows in asked)
    return {row: one for rows, all_said in found for row, one in zip(rows, all_said, strict=True) if one is not None}


def _read_pieces(
    reader: ClipReader, cuts: Mapping[int, tuple[str, Cut]], files: Sequence[Listed]
) -> Iterator[tuple[bytes | None, str]]:
    """The bytes of each piece and "", or None and the reason it can not be used. Raises MachineError."""
    of_path: dict[str, list[tuple[int, Cut]]] = {}
    for row, (path, cut) in cuts.items():
        of_path.setdefault(path, []).append((row, cut))
    found: dict[int, tuple[bytes | None, str]] = {}
    for path, file in reader():
        found |= {row: _read_piece(path, file, cut) for row, cut in of_path[path]}
    yield from (found[one.row] if one.row in cuts else (None, one.failure) for one in files)


def _read_piece(path: str, file: BinaryIO | PictureError, cut: Cut) -> tuple[bytes | None, str]:
    try:
        if isinstance(file, PictureError):
            raise file
        return read_piece(file, cut), ""
    except PictureError as error:
        return None, f"{error.reason}: {error}"
    except (OSError, ValueError, pa.ArrowException) as error:
        failure = unreadable(error, path)
        return None, f"{failure.reason}: {failure}"
