"""What an output tells of the tracks of its clips: nothing that the clips do not show, and where a face was filled in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from jobs.names import clip_name
from jobs.output.layout import RUN_DIRECTORY
from jobs.storage.json_files import to_json
from jobs.storage.store import Store
from keyanon_core.clips.tracking import TrackedFrames

TRACKS: Final = f"{RUN_DIRECTORY}/tracks"


@dataclass(frozen=True)
class ClipTrack:
    """One person's track. begin, end: seconds of its first and last frame. frames: in which it is, filled: in which no detector
    saw it. stretches: of frames in a row, first and last number of each. shown: number of the frame in which it is largest; box:
    there, in px.
    """

    track: int
    begin: float
    end: float
    frames: int
    filled: int
    stretches: tuple[tuple[int, int], ...]
    shown: int
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, track: int, frames: TrackedFrames, seconds: npt.NDArray[np.float64]) -> Self:
        """One of the tracks in a clip's frames. seconds: of all of them."""
        rows = np.flatnonzero(frames.tracks == track)
        numbers = np.searchsorted(frames.bounds, rows, side="right") - 1
        breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
        stretches = tuple((int(part[0]), int(part[-1])) for part in np.split(numbers, breaks))
        seen = np.flatnonzero(~frames.filled[rows])
        boxes = frames.points[rows[seen], :2].reshape(-1, 4)
        largest = int(np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(1)))
        x0, y0, x1, y1 = map(round, boxes[largest].tolist())
        return cls(
            track,
            float(seconds[numbers[0]]),
            float(seconds[numbers[-1]]),
            len(rows),
            len(rows) - len(seen),
            stretches,
            int(numbers[seen[largest]]),
            (x0, y0, x1, y1),
        )


def write_tracks(store: Store, told: Mapping[str, Sequence[ClipTrack]]) -> None:
    """Remember the tracks of clips, by their names. Raises OSError, MachineError."""
    for name, tracks in told.items():
        seen, content = store.see(_file(name)), to_json({"tracks": [asdict(one) for one in tracks]})
        if seen is None or seen.content != content:
            store.replace(_file(name), content, None if seen is None else seen.version)


def read_tracks(store: Store, name: str) -> list[ClipTrack]:
    """The tracks of a clip; none where they are not known. Raises OSError, MachineError, ValueError for another file."""
    seen = store.see(_file(name))
    return [] if seen is None else [_track(one) for one in json.loads(seen.content)["tracks"]]


def _track(said: dict[str, Any]) -> ClipTrack:
    stretches = tuple((int(first), int(last)) for first, last in said["stretches"])
    x0, y0, x1, y1 = map(int, said["box"])
    return ClipTrack(**{**said, "stretches": stretches, "box": (x0, y0, x1, y1)})


def _file(name: str) -> str:
    return f"{TRACKS}/{clip_name(name)}.json"
