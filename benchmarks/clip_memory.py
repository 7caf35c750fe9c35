"""What the driver of a run over clips holds of a clip while it tells who is who in it.

    python benchmarks/clip_memory.py [--pieces 200] [--people 2] [--json]

One clip of --pieces pieces of 32 frames is made up, in each of whose frames all --people are seen, and goes through
`jobs.run.tracks` as the first pass's findings do. Printed, in bytes a piece, as Python's tracemalloc counts them:
- seen: what is held of the clip until all its pieces were seen.
- peak: the most that is held while it is tracked and written, with what is seen.
- written: what lies in the output until the rows of the clip stand.
- left: what is held afterwards.
For an hour at 25 frames a second, 2,813 pieces, the same in MB.
"""

import base64
import json
import tempfile
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from shared import print_facts, print_json, when_and_where

from jobs.output.found_faces import FoundFaces, found_files
from jobs.run.track_stage import EMBEDDED_EVERY, VIEW, SeenPiece
from jobs.run.tracks import by_piece, looked_through, tracked, tracks_of
from jobs.sources.clips import Clip
from jobs.storage.opening import open_store
from keyanon_core.clips.form import ClipForm, Colours
from keyanon_core.clips.index import PIECE_FRAMES, ClipIndex
from keyanon_core.faces.detection import Face

PIECES_OF_AN_HOUR: Final = 2813  # 90,000 frames
VECTOR: Final = 128  # numbers of an identity vector
MARKS: Final = np.array([[40, 48], [80, 48], [60, 72], [44, 96], [76, 96]], np.float64)  # px


def main(
    pieces: Annotated[int, typer.Option(min=1)] = 200,
    people: Annotated[int, typer.Option(min=1)] = 2,
    json_: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Track one made-up clip, and print what that took."""
    clip, random = _clip(pieces), np.random.default_rng(0)
    looks = random.normal(size=(people, VECTOR)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        found = FoundFaces.of(open_store(Path(folder)), clip.name, "0")
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        seen: dict[int, SeenPiece | None] = {row: SeenPiece.of(_said(row, looks, random)) for row in clip.rows}
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.reset_peak()
        frames = tracked(clip, seen, lambda one, other: bool(np.abs(one - other).mean() < 0.5))
        tracks = tracks_of(clip, frames)
        found.keep(looked_through(by_piece(clip, frames), seen))
        peak = tracemalloc.get_traced_memory()[1] - before
        del frames, seen, tracks
        left = tracemalloc.get_traced_memory()[0] - before
        written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        assert found.are_whole(pieces, found_files(found.store)), "all was written"
    counted = {"seen": held, "peak": peak, "written": written, "left": left}
    figures = {
        name: (round(value / pieces), round(value / pieces * PIECES_OF_AN_HOUR / 1e6))
        for name, value in counted.items()
    }
    if json_:
        print_json({"pieces": pieces, "people": people, **figures, **when_and_where()})
        return
    print_facts({name: f"{of_piece:,} bytes a piece, {hour} MB an hour" for name, (of_piece, hour) in figures.items()})


def _clip(pieces: int) -> Clip:
    numbers = np.arange(pieces * PIECE_FRAMES)
    form = ClipForm("mp4", "h264", "h264", b"", Fraction(1, 25), 1280, 720, 0, Fraction(1), Colours(1, 1, 1, 1))
    ones, sizes = np.ones(len(numbers), np.bool_), np.full(len(numbers), 9000)
    return Clip("a.mp4", "a.mp4", range(pieces), 0, ClipIndex(form, numbers, numbers, ones, sizes, 1, 0, ~ones))


def _said(row: int, looks: np.ndarray, random: np.random.Generator) -> str:
    """As `FindInPieces` says of a piece what its frames show: people beside each other who sway."""
    frames = []
    for number in range(PIECE_FRAMES):
        x = 150 + 100 * np.sin((row * PIECE_FRAMES + number) / 50)
        faces = []
        for person, look in enumerate(looks):
            marks = MARKS + np.array([300 * person + x, 200]) + random.normal(0, 0.3, MARKS.shape)
            box = (*(marks.min(0) - 20).tolist(), *(marks.max(0) + 20).tolist())
            embedded = number % EMBEDDED_EVERY == 0 or number == PIECE_FRAMES - 1
            vector = _text(look + random.normal(0, 0.1, VECTOR).astype(np.float32)) if embedded else None
            faces.append({**Face(box, marks, float(random.random())).to_dict(), "vector": vector})
        frames.append({"view": _text(random.integers(100, 110, VIEW).astype(np.uint8)), "faces": faces})
    return json.dumps(frames)


def _text(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


if __name__ == "__main__":
    typer.run(main)
