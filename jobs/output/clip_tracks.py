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
from keyanon_core.clips.tracking import TrackedFace

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
    def of(cls, track: int, faces: Sequence[tuple[int, TrackedFace]], seconds: npt.NDArray[np.float64]) -> Self:
        """A track's faces and the numbers of their frames, rising. seconds: of all the clip's frames."""
        numbers = np.array([number for number, _ in faces])
        breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
        stretches = tuple((int(part[0]), int(part[-1])) for part in np.split(numbers, breaks))
        shown, largest = max(
            ((number, one.face) for number, one in faces if not one.filled), key=lambda one: one[1].area
        )
        x0, y0, x1, y1 = (round(value) for value in largest.box)
        return cls(
            track,
            float(seconds[numbers[0]]),
            float(seconds[numbers[-1]]),
            len(faces),
            sum(one.filled for _, one in faces),
            stretches,
            shown,
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
