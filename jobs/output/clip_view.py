"""The clips of an output, for people: pieces, tracks, and a page to review a clip by. It needs neither keystore nor source."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import cv2
import numpy as np

from jobs.names import CLIP_FACTS_SUFFIX, clip_name, suffix_of
from jobs.output.clip_tracks import ClipTrack, read_tracks
from jobs.output.joined import CLIPS
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import OutputError, Row, read_manifest, read_rows
from jobs.pages import data_uri, page_environment
from jobs.sources.source import CLIP_SUFFIXES
from jobs.storage.store import Store
from keyanon_core.clips.frames import decode_published
from keyanon_core.errors import PictureError
from keyanon_core.imaging import DEFAULT_MAX_PIXELS, encode_picture
from keystore.vault.parts import part_id

THUMBNAIL: Final = 96  # px a side
MARGIN: Final = 0.3  # of a face's box, shown around it


@dataclass(frozen=True)
class ClipPiece:
    """row: of the piece. begin: seconds, as its name says. end: those of the piece after it; None for the last one."""

    row: Row
    begin: float
    end: float | None


@dataclass(frozen=True)
class ClipView:
    """A clip as an output has it. is_joined: whether the whole clip is there."""

    name: str
    pieces: tuple[ClipPiece, ...]
    tracks: tuple[ClipTrack, ...]
    is_joined: bool

    def ids_of(self, tracks: Sequence[int], pieces: Sequence["ClipPiece"]) -> list[str]:
        """What to ask a keystore for: of some pieces the image ids of the key records of some tracks alone.

        Raises OutputError for a track that none of them has a record of, and where one has a record for everybody, as an earlier
        version made them.
        """
        for piece in pieces:
            if piece.row.record_id is not None and not piece.row.track_records:
                raise OutputError(
                    f"{piece.row.image_id} has one key record for everybody in it, which an earlier version made: nobody can be "
                    "asked for alone; leave --track out, or anonymize again into an empty output"
                )
        there = {one.track for piece in pieces for one in piece.row.track_records}
        if unknown := sorted(set(tracks) - there):
            raise OutputError(
                f"no piece of {self.name} in this time has a key record of track {unknown[0]}; tracks with one: "
                f"{', '.join(sorted(str(one) for one in there if one is not None)) or 'none'}"
            )
        return [
            part_id(piece.row.image_id, one.track)
            for piece in pieces
            for one in piece.row.track_records
            if one.track in tracks
        ]

    @property
    def missing(self) -> list[ClipPiece]:
        """Pieces that were not published."""
        return [piece for piece in self.pieces if piece.row.output is None]

    def between(self, begin: float, end: float | None) -> list[ClipPiece]:
        """The pieces that show something of a time, in seconds; end: None for the clip's."""
        return [
            piece
            for piece in self.pieces
            if (end is None or piece.begin < end) and (piece.end is None or piece.end > begin)
        ]


def clip_views(store: Store) -> list[ClipView]:
    """The clips of an output, by name. Raises OutputError, OSError, MachineError."""
    read_manifest(store)
    rows: dict[str, list[Row]] = {}
    for row in read_rows(store):
        path = PurePosixPath(row.image_id)
        if suffix_of(row.image_id) in CLIP_SUFFIXES:
            rows.setdefault(str(path.parent) if _is_piece(path) else row.image_id, []).append(row)
    return [_view(store, name, rows[name]) for name in sorted(rows)]


def clip_view(store: Store, name: str) -> ClipView:
    """One clip. Raises OutputError where there is none of that name, and as `clip_views`."""
    for view in clip_views(store):
        if view.name == name:
            return view
    raise OutputError(f"{store} has no clip {name!r}; `keyanon clips {store}` lists those that it has")


def page_of(store: Store, view: ClipView) -> str:
    """A page that needs nothing beside it. Raises OutputError, OSError, MachineError."""
    last = max([track.end for track in view.tracks] + [piece.begin for piece in view.pieces], default=0.0)
    asking = f"keyanon clips OUT {shlex.quote(view.name)} --track N --ids"
    return (
        page_environment("jobs.output")
        .get_template("clip.html.j2")
        .render(
            clip=view,
            seconds=max(last, 1e-3),
            faces=dict(_thumbnails(store, view)),
            asking=asking if any(piece.row.track_records for piece in view.pieces) else "",
        )
    )


def _view(store: Store, name: str, rows: list[Row]) -> ClipView:
    rows.sort(key=lambda row: row.image_id)
    begins = [int(PurePosixPath(row.image_id).stem) / 1000 if row.image_id != name else 0.0 for row in rows]
    pieces = [ClipPiece(row, begin, end) for row, begin, end in zip(rows, begins, [*begins[1:], None], strict=True)]
    joined = store.see(f"{CLIPS}/{clip_name(name)}{CLIP_FACTS_SUFFIX}") is not None
    try:
        tracks = read_tracks(store, name)
    except (ValueError, LookupError, TypeError) as error:
        raise OutputError(f"what {store} tells of the tracks of {name} is damaged ({error})") from error
    return ClipView(name, tuple(pieces), tuple(tracks), joined)


def _is_piece(path: PurePosixPath) -> bool:
    return path.stem.isdigit() and suffix_of(path.parent.name) == suffix_of(path.name)


def _frames(store: Store, view: ClipView) -> int:
    """How many frames its pieces have, but for the last one; 0 where none was published."""
    first = view.pieces[0].row
    if first.output is None:
        return 0
    return len(decode_published(PublishedPictures(store).picture(first), DEFAULT_MAX_PIXELS).times)


def _thumbnails(store: Store, view: ClipView) -> Iterator[tuple[int, str]]:
    """By track, how the face looks as it was published, where it was."""
    published, frames = PublishedPictures(store), _frames(store, view)
    for track in view.tracks:
        number = track.shown // frames if frames else len(view.pieces)
        if number >= len(view.pieces) or view.pieces[number].row.output is None:
            continue
        try:
            strip = decode_published(published.picture(view.pieces[number].row), DEFAULT_MAX_PIXELS)
        except PictureError as error:
            raise OutputError(f"{view.pieces[number].row.image_id}: {error}") from error
        frame = list(strip.frames())[track.shown % frames]
        x0, y0, x1, y1 = track.box
        reach = round(MARGIN * (y1 - y0))
        face = frame[max(y0 - reach, 0) : y1 + reach, max(x0 - reach, 0) : x1 + reach]
        if face.size:
            small = cv2.resize(
                face, (THUMBNAIL, THUMBNAIL * face.shape[0] // face.shape[1]), interpolation=cv2.INTER_AREA
            )
            yield track.track, data_uri(encode_picture(np.ascontiguousarray(small), "jpeg", 85), "jpeg")
