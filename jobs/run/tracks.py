"""Who is who in the clips of a run: found by one pass over their frames, before any of them is anonymized.

A clip's faces are found piece by piece, on all machines; what joins them to tracks is quick, and done by the driver, clip by
clip: of one that is tracked it holds nothing any more, and its faces are in the output (`jobs.output.found_faces`). A track is
a subject of the data set's pseudonyms, so that a resumed run, whose tracks are the same, shows the same faces.
"""

import hashlib
import json
import logging
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError

from jobs.blocks import ROW
from jobs.config import AnonymizeConfig
from jobs.output.clip_tracks import ClipTrack, write_tracks
from jobs.output.found_faces import FORMAT_VERSION, FoundFaces, FoundPlaces, forget_others, found_files
from jobs.output.manifest import code_version
from jobs.output.row_sets import RowSet
from jobs.run.cluster import reported_cause
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.placement import Placement
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor, Phase, ProgressCallback, RunState
from jobs.run.reading import read_pictures
from jobs.run.track_names import track_subject
from jobs.run.track_stage import EMBEDDED_EVERY, SEEN, VIEW, FindInPieces, SeenPiece
from jobs.sources.clips import Clip, Clips
from jobs.sources.source import ReadUnit, segments_of, unfinished
from jobs.storage.store import Store
from keyanon_core.clips.association import SamePerson
from keyanon_core.clips.index import ClipIndex
from keyanon_core.clips.tracking import NOBODY, TrackedFace, TrackedFrames, track_faces
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Recognizer

CUT: Final = 40.0  # grey levels, mean over a frame's view, that two frames in a row of one scene do not differ by
PIECES_OF_A_TASK: Final = 4
PIECES_AT_ONCE: Final = 6250  # that Ray plans at a time, two hours: what reads a piece lists the packets that it needs

logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
View = npt.NDArray[np.uint8]
Seen = Mapping[int, SeenPiece | None]


@dataclass
class Tracker:
    """Goes through the clips of a run. store: of the output, where what is found is kept. placement: of its actors. progress: is
    told of each piece."""

    config: AnonymizeConfig
    source: Clips
    store: Store
    models: FaceModelChoice
    placement: Placement
    monitor: Monitor
    progress: ProgressCallback | None = None

    def track(self, finished: Collection[int]) -> None:
        """Let the source say who is in each piece of the clips that have one whose row's position is not among `finished`.

        Only clips that are not kept whole in the output are gone through, and in those of their pieces of which the places are
        kept no face is looked for: only identity vectors are made again. Raises what ends a run.
        """
        left = unfinished(self.source.total, finished)
        clips = [clip for clip in self.source.clips if clip.index is not None and left[clip.rows].any()]
        if not clips:
            return
        models, files = self.models.load(1), found_files(self.store)
        found = {clip.name: FoundFaces.of(self.store, clip.name, self._made_of(clip, models)) for clip in clips}
        forget_others(self.store, {one.folder for one in found.values()}, files)
        lacking = [clip for clip in clips if not found[clip.name].are_whole(len(clip.rows), files)]
        placed = {clip.name: found[clip.name].placed(files) for clip in lacking}
        if kept := {name: one.said for name, one in placed.items() if one.files}:
            self.source.know(kept)
        untold = self._go_through(lacking, placed, models.recognizer)
        self.source.know({name: one.said for name, one in found.items() if name not in untold})

    def _go_through(self, clips: Sequence[Clip], placed: Mapping[str, FoundPlaces], recognizer: Recognizer) -> set[str]:
        """Track each clip when all its pieces were seen. Returns the names of those whose tracks can not be told."""
        untold = {clip.name for clip in clips}
        for clip, seen in self._clips_seen(clips, placed):
            try:
                self._track(clip, seen, placed[clip.name].found, recognizer)
                untold.remove(clip.name)
            except ValueError:  # of its times or places; it is quarantined, and costs no other clip
                logger.exception("the tracks of %s can not be told", clip.name)
        return untold

    def _track(self, clip: Clip, seen: Seen, found: FoundFaces, recognizer: Recognizer) -> None:
        """Keep what comes of a clip. Raises ValueError, what ends a run."""
        frames = tracked(clip, seen, same_person_by(recognizer))
        write_tracks(self.store, {clip.name: tracks_of(clip, frames)})
        found.keep(looked_through(by_piece(clip, frames), seen))

    def _clips_seen(self, clips: Sequence[Clip], placed: Mapping[str, FoundPlaces]) -> Iterator[tuple[Clip, Seen]]:
        """Each clip when all its pieces were seen: what its rows show, by their positions. Pieces come about in the order of the
        rows, so that few clips are in hand at a time; of a long one what was found so far is kept."""
        begins = [clip.rows.start for clip in clips]
        in_hand: dict[int, dict[int, SeenPiece | None]] = {}
        begun, pieces = time.monotonic(), sum(len(clip.rows) for clip in clips)
        for count, (row, said) in enumerate(self._pieces_seen(clips), 1):
            if self.progress is not None:
                self.progress(RunState.apart(Phase.FINDING, count, pieces, begun))
            at = bisect_right(begins, row) - 1
            seen = in_hand.setdefault(at, {})
            seen[row] = None if said is None else SeenPiece.of(said)
            if len(seen) == len(clips[at].rows):
                yield clips[at], in_hand.pop(at)
                seen.clear()  # who took it may name it still
            else:
                placed[clips[at].name].keep(clips[at].rows, seen, row)

    def _pieces_seen(self, clips: Sequence[Clip]) -> Iterator[tuple[int, str | None]]:
        """The position of each row of some clips, and its `SEEN`."""
        others = np.ones(self.source.total, np.bool_)
        for clip in clips:
            others[clip.rows] = False
        units = self.source.units(RowSet.of(others), partial(min, PIECES_OF_A_TASK))
        try:
            for some in segments_of(units, PIECES_AT_ONCE):
                for batch in self._finding(some).iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield from zip(batch.column(ROW).to_pylist(), batch.column(SEEN).to_pylist(), strict=True)
        except RayError as error:
            raise reported_cause(error, self.monitor, "run") from error

    def _finding(self, units: Sequence[ReadUnit]) -> ray.data.Dataset:
        actors = min(self.placement.actors, len(units))
        return read_pictures(self.source, units, PIECES_OF_A_TASK).map_batches(
            FindInPieces,
            fn_constructor_kwargs={
                "models": self.models,
                "threads": self.placement.threads,
                "max_pixels": self.config.max_pixels,
                "monitor": self.monitor,
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=Pool(actors, actors).strategy(),
            num_cpus=self.config.cpus_per_actor,
            memory=self.placement.detector_memory,
            max_restarts=PROCESS_RESTARTS,
            udf_modifying_row_count=False,
        )

    def _made_of(self, clip: Clip, models: FaceModels) -> str:
        """SHA-256 of all that decides which faces are found in a clip, and which tracks they are on."""
        index = index_of(clip)
        told = {
            "format": FORMAT_VERSION,
            "keyanon": code_version(),
            "models": models.digests(),
            "max_pixels": self.config.max_pixels,
            "cut": [CUT, VIEW],
            "embedded_every": EMBEDDED_EVERY,
            "clip": [clip.name, clip.version, asdict(index.form)],
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for numbers in (index.times, index.packets, index.sizes, index.is_key, index.is_hidden):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()


def same_person_by(recognizer: Recognizer) -> SamePerson:
    """Whether two identity vectors are one person's."""
    return lambda first, second: recognizer.distance(first, second) < recognizer.threshold


def tracked(clip: Clip, seen: Seen, same_person: SamePerson) -> TrackedFrames:
    """Who is in each frame of a clip. seen: of each row by its position, None where it can not be decoded. Raises ValueError."""
    index = index_of(clip)
    rows = zip(clip.rows, index.cuts(), strict=True)
    pieces = [seen.get(row) or SeenPiece.unseen(len(cut.times)) for row, cut in rows]
    cuts = cuts_between(piece.views for piece in pieces)
    return track_faces(SeenPiece.frames(pieces), index.seconds, index.form.upright_size, same_person, cuts)


def tracked_alone(clip: Clip, row: int, piece: SeenPiece, same_person: SamePerson) -> PieceFaces:
    """Who is in one piece of a clip of which nothing else was seen. row: the piece's position. Raises ValueError."""
    index = index_of(clip)
    times = np.array(index.cut(row - clip.rows.start).times) * float(index.form.time_base)
    height, cuts = index.form.upright_size[1], cuts_between([piece.views])
    frames = track_faces(SeenPiece.frames([piece]), times, index.form.upright_size, same_person, cuts)
    return _of_piece(clip, frames[:], height, somebody=True)


def by_piece(clip: Clip, frames: TrackedFrames) -> Iterator[PieceFaces]:
    """The faces of a clip's frames, by its pieces in their order."""
    index, begin = index_of(clip), 0
    height, somebody = index.form.upright_size[1], frames.somebody
    for cut in index.cuts():
        end = begin + len(cut.times)
        after = frames[end] if end < len(frames) else []
        following = {subject: one.face for one in after if (subject := subject_of(clip, one.track))}
        yield replace(_of_piece(clip, frames[begin:end], height, somebody), following=following)
        begin = end


def looked_through(faces: Iterable[PieceFaces], seen: Seen) -> Iterator[PieceFaces | None]:
    """None for the pieces that nobody could look through: of these nothing is said, so that they are quarantined, and not taken
    for empty. seen: as of `tracked`."""
    for row, said in zip(sorted(seen), faces, strict=True):
        yield None if seen[row] is None else said


def tracks_of(clip: Clip, frames: TrackedFrames) -> list[ClipTrack]:
    """What is told of each track of a clip, in their order."""
    seconds = index_of(clip).seconds
    return [ClipTrack.of(track, frames, seconds) for track in np.unique(frames.tracks).tolist() if track != NOBODY]


def index_of(clip: Clip) -> ClipIndex:
    """Raises ValueError for a clip that can not be used, which has no frames."""
    if clip.index is None:
        raise ValueError(f"{clip.name} can not be read, and has no frames")
    return clip.index


def cuts_between(views: Iterable[View]) -> list[int]:
    """Numbers of frames at which another scene begins. views: (n, k) uint8 grey levels of each piece's frames; (n, 0) where they
    are not known, before and after which a scene may begin."""
    cuts, number, before = [], 0, None
    for piece in views:
        for view in piece:
            if before is not None and _differ(view, before):
                cuts.append(number)
            number, before = number + 1, view
    return cuts


def _differ(view: View, before: View) -> bool:
    if not (view.size and before.size):
        return view.size != before.size
    return float(np.abs(np.subtract(view, before, dtype=np.float32)).mean()) > CUT


def subject_of(clip: Clip, track: int) -> str | None:
    """Whom a track stands for among a data set's subjects; None for NOBODY."""
    return None if track == NOBODY else track_subject(track, clip.name, clip.version)


def _of_piece(clip: Clip, frames: Sequence[Sequence[TrackedFace]], height: int, somebody: bool) -> PieceFaces:
    at = [(frame, one) for frame, faces in enumerate(frames) for one in faces]
    faces = [one.face.moved(frame * height, frame) for frame, one in at]
    return PieceFaces(faces, [subject_of(clip, one.track) for _, one in at], somebody)
