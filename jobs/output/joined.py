"""Whole clips, joined of the pieces that a run published: `OUT/clips/NAME`, once every piece of one is there.

A clip of which a piece was quarantined is not joined. What says which pieces a clip was joined of lies beside it, so that it is
made anew where one of them was.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from jobs.names import CLIP_FACTS_SUFFIX, clip_name, suffix_of
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import Row, read_rows
from jobs.sources.clips import Clip, Clips
from jobs.storage.json_files import to_json
from jobs.storage.store import Store
from keyanon_core.clips.form import CONTAINERS
from keyanon_core.clips.joining import join_pieces
from keyanon_core.errors import PictureError

CLIPS: Final = "clips"
Audio = Literal["drop", "keep"]


@dataclass
class Joined:
    """Names of clips. missing: those that are not joined, each with why."""

    clips: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def join_clips(store: Store, source: Clips, audio: Audio) -> Joined:
    """Join the clips of a run all of whose rows stand. Those that are there, of the same pieces, stay.

    Raises PublishError, OutputError, OSError, MachineError.
    """
    joined, published = Joined(), PublishedPictures(store)
    rows = {row.image_id: row for row in read_rows(store)}
    for clip in source.clips:
        pieces = [rows.get(source.ids[at]) for at in clip.rows]
        name = f"{CLIPS}/{clip_name(clip.name)}"
        whole = [row for row in pieces if row is not None and row.output is not None]
        if len(whole) < len(pieces) or clip.index is None:
            joined.missing[clip.name] = _why(pieces)
            for stale in (name + CLIP_FACTS_SUFFIX, name):
                store.delete(stale)
            continue
        facts = {"pieces": len(whole), "records_sha256": _digest(whole), "audio": audio}
        seen = store.see(name + CLIP_FACTS_SUFFIX)
        if seen is None or seen.content != to_json(facts):
            store.delete(name + CLIP_FACTS_SUFFIX)  # first: a clip that is half made anew is not what they say
            try:
                _write(store, name, clip, (published.picture(row) for row in whole), source, audio)
            except PictureError as error:
                joined.missing[clip.name] = f"{error.reason}: {error}"
                continue
            store.replace(name + CLIP_FACTS_SUFFIX, to_json(facts), None)
        joined.clips.append(clip.name)
    return joined


def _write(store: Store, name: str, clip: Clip, pieces: Iterator[bytes], source: Clips, audio: Audio) -> None:
    store.delete(name)  # an earlier one, of other pieces
    container = CONTAINERS[suffix_of(clip.name)]
    with tempfile.TemporaryDirectory(prefix="keyanon-") as folder:
        made = Path(folder) / "clip"
        if audio == "keep" and clip.index is not None and clip.index.audio:
            with source.opened(clip.path) as sound:
                join_pieces(pieces, made, container, sound)
        else:
            join_pieces(pieces, made, container)
        with made.open("rb") as file, store.writing(name) as out:
            shutil.copyfileobj(file, out)


def _why(pieces: list[Row | None]) -> str:
    reasons = [row.reason for row in pieces if row is not None and row.output is None]
    return reasons[0] if reasons else "incomplete: a piece of it has no row yet"


def _digest(rows: list[Row]) -> str:
    """Of which pieces a clip is made: each time that one is made it has another record, and one without anybody has none."""
    told = "\n".join(f"{row.image_id}\0{row.record_id}\0{row.output_sha256}" for row in rows)
    return hashlib.sha256(told.encode()).hexdigest()
