"""Who is who in the clips of a run: found by one pass over their frames, before any of them is anonymized.

A clip's faces are found piece by piece, on all machines; what joins them to tracks is quick, and done by the driver. A track is a
subject of the data set's pseudonyms, so that a resumed run, whose tracks are the same, shows the same faces.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from ray.exceptions import RayError

from jobs.blocks import ROW
from jobs.config import AnonymizeConfig
from jobs.output.clip_tracks import ClipTrack
from jobs.run.cluster import reported_cause
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.placement import Placement
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor
from jobs.run.reading import read_pictures
from jobs.run.track_names import track_subject
from jobs.run.track_stage import SEEN, FindInPieces, seen_faces
from jobs.sources.clips import Clip, Clips
from keyanon_core.clips.index import ClipIndex
from keyanon_core.clips.tracking import SeenFace, TrackedFace, track_faces
from keyanon_core.clips.whose import PieceFaces

CUT: Final = 40.0  # grey levels, mean over a frame's view, that two frames in a row of one scene do not differ by
PIECES_OF_A_TASK: Final = 4

logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]


@dataclass
class Tracker:
    """Goes through the clips of a run. placement: of its actors."""

    config: AnonymizeConfig
    source: Clips
    models: FaceModelChoice
    placement: Placement
    monitor: Monitor
    seen: dict[int, str | None] = field(default_factory=dict)

    def track(self, finished: Collection[int]) -> dict[str, list[ClipTrack]]:
        """Let the source say who is in each piece of the clips that have one whose row's position is not among `finished`.
        Returns the tracks of these clips, by their names.

        Raises what ends a run.
        """
        done = np.zeros(self.source.total, np.bool_)
        done[np.fromiter(finished, np.int64, len(finished))] = True
        clips = [clip for clip in self.source.clips if clip.index is not None and not done[list(clip.rows)].all()]
        wanted = {row for clip in clips for row in clip.rows}
        if not wanted:
            return {}
        self._find([row for row in range(self.source.total) if row not in wanted])
        known: dict[int, PieceFaces] = {}
        recognizer = self.models.load(1).recognizer

        def same_person(first: Vector, second: Vector) -> bool:
            return recognizer.distance(first, second) < recognizer.threshold

        told: dict[str, list[ClipTrack]] = {}
        for clip in clips:
            try:
                frames = tracked(clip, self.seen, same_person)
            except ValueError:  # of its times or places; it is quarantined, and costs no other clip
                logger.exception("the tracks of %s can not be told", clip.name)
                continue
            known |= looked_through(by_piece(clip, frames), self.seen)
            told[clip.name] = tracks_of(clip, frames)
        self.source.know(known)
        return told

    def _find(self, others: list[int]) -> None:
        units = list(self.source.units(others, partial(min, PIECES_OF_A_TASK)))
        actors = min(self.placement.actors, len(units))
        dataset = read_pictures(self.source, units, PIECES_OF_A_TASK).map_batches(
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
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                self.seen.update(zip(batch.column(ROW).to_pylist(), batch.column(SEEN).to_pylist(), strict=True))
        except RayError as error:
            raise reported_cause(error, self.monitor, "run") from error


def tracked(
    clip: Clip, seen: Mapping[int, str | None], same_person: Callable[[Vector, Vector], bool]
) -> list[list[TrackedFace]]:
    """Who is in each frame of a clip. seen: `SEEN` of each row by its position, None where it can not be decoded."""
    index = index_of(clip)
    frames: list[list[SeenFace]] = []
    views: list[npt.NDArray[np.float32]] = []
    for row, cut in zip(clip.rows, index.cuts(), strict=True):
        said = seen.get(row)
        faces, view = ([[] for _ in cut.times], None) if said is None else seen_faces(said)
        frames += faces
        views += [view] if view is not None else [np.full((len(cut.times), 0), np.nan, np.float32)]
    return track_faces(frames, index.seconds, index.form.upright_size, same_person, cuts_between(views))


def by_piece(clip: Clip, frames: Sequence[Sequence[TrackedFace]]) -> dict[int, PieceFaces]:
    """The faces of a clip's frames by the positions of its pieces' rows."""
    index, known, begin = index_of(clip), dict[int, PieceFaces](), 0
    height, somebody = index.form.upright_size[1], any(frames)
    for row, cut in zip(clip.rows, index.cuts(), strict=True):
        end = begin + len(cut.times)
        following = {subject_of(clip, one.track): one.face for one in frames[end]} if end < len(frames) else {}
        known[row] = replace(_of_piece(clip, frames[begin:end], height, somebody), following=following)
        begin = end
    return known


def looked_through(faces: Mapping[int, PieceFaces], seen: Mapping[int, str | None]) -> dict[int, PieceFaces]:
    """Without the pieces that nobody could look through: of these nothing is said, so that they are quarantined, and not taken
    for empty. seen: as of `tracked`."""
    return {row: said for row, said in faces.items() if seen.get(row) is not None}


def tracks_of(clip: Clip, frames: Sequence[Sequence[TrackedFace]]) -> list[ClipTrack]:
    """What is told of each track of a clip, in their order."""
    seconds, found = index_of(clip).seconds, dict[int, list[tuple[int, TrackedFace]]]()
    for number, faces in enumerate(frames):
        for one in faces:
            found.setdefault(one.track, []).append((number, one))
    return [ClipTrack.of(track, found[track], seconds) for track in sorted(found)]


def index_of(clip: Clip) -> ClipIndex:
    """Raises ValueError for a clip that can not be used, which has no frames."""
    if clip.index is None:
        raise ValueError(f"{clip.name} can not be read, and has no frames")
    return clip.index


def cuts_between(views: Sequence[npt.NDArray[np.float32]]) -> list[int]:
    """Numbers of frames at which another scene begins. views: (n, k) grey levels of each piece's frames; (n, 0) where they are
    not known, before and after which a scene may begin."""
    cuts, number, before = [], 0, None
    for piece in views:
        for view in piece:
            if before is not None and _differ(view, before):
                cuts.append(number)
            number, before = number + 1, view
    return cuts


def _differ(view: npt.NDArray[np.float32], before: npt.NDArray[np.float32]) -> bool:
    if not (view.size and before.size):
        return view.size != before.size
    return float(np.abs(view - before).mean()) > CUT


def subject_of(clip: Clip, track: int) -> str:
    """Whom a track stands for among a data set's subjects."""
    return track_subject(track, clip.name, clip.version)


def _of_piece(clip: Clip, frames: Sequence[Sequence[TrackedFace]], height: int, somebody: bool) -> PieceFaces:
    at = [(frame, one) for frame, faces in enumerate(frames) for one in faces]
    faces = [one.face.moved(frame * height, frame) for frame, one in at]
    return PieceFaces(faces, [subject_of(clip, one.track) for _, one in at], somebody)
