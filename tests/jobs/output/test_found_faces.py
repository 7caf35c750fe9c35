"""What a run found in its clips: kept whole or not at all, of what it was made of alone, and gone when it is of no use."""

import pickle
import uuid
from pathlib import Path

import numpy as np
import pytest

from jobs.errors import MachineError
from jobs.output.found_faces import (
    FOUND_FACES,
    PIECES_OF_A_FILE,
    WHOLE,
    FoundFaces,
    forget_all,
    forget_clips,
    forget_others,
    found_files,
)
from jobs.storage.opening import open_store
from jobs.storage.store import Store
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.faces.detection import Face
from tests.jobs.publishing import before_operation
from tests.jobs.seaweed import BUCKET

PIECES = 2 * PIECES_OF_A_FILE + 1
MADE_OF = "0123456789abcdef" * 4


def faces(seed: int = 0) -> list[PieceFaces | None]:
    """Of each piece another face; nobody could look through the second one."""
    marks = np.random.default_rng(seed).uniform(0, 99, (PIECES, 5, 2))
    made = [PieceFaces([Face((1 / 3, 2, 30, 40), one, 0.9, 7)], ["track 0 of clip ü\n"], True) for one in marks]
    return [made[0], None, *made[2:]]


def said(some: list[PieceFaces | None]) -> list[str | None]:
    return [None if one is None else one.to_json() for one in some]


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(tmp_path / "out")
    request.getfixturevalue("s3")
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def test_faces_of_pieces_come_back_exactly_wherever_they_are_asked_for(store: Store) -> None:
    found = FoundFaces.of(store, "sub/a ü.mp4", MADE_OF)
    found.keep(iter(faces()))
    assert found.are_whole(PIECES, found_files(store))
    elsewhere = pickle.loads(pickle.dumps(found))
    assert elsewhere.said(range(PIECES)) == said(faces())
    assert elsewhere.said([PIECES - 1, 1, 0]) == [said(faces())[at] for at in (PIECES - 1, 1, 0)]
    assert elsewhere.said([]) == []


def test_of_another_clip_or_another_detector_nothing_is_taken(store: Store) -> None:
    FoundFaces.of(store, "a.mp4", MADE_OF).keep(faces())
    files = found_files(store)
    for other in (FoundFaces.of(store, "b.mp4", MADE_OF), FoundFaces.of(store, "a.mp4", MADE_OF[::-1])):
        assert not other.are_whole(PIECES, files)
    assert not FoundFaces.of(store, "a.mp4", MADE_OF).are_whole(PIECES + PIECES_OF_A_FILE, files)


def test_what_a_killed_attempt_began_is_not_whole_and_is_made_anew(tmp_path: Path) -> None:
    store, pieces = open_store(tmp_path / "out"), PIECES_OF_A_FILE + 1
    found, reached, number = FoundFaces.of(store, "a.mp4", MADE_OF), True, 0
    while reached:
        with before_operation(number) as came_so_far:
            found.keep(faces()[:pieces])
        reached, number = came_so_far(), number + 1
        if found.are_whole(pieces, found_files(store)):
            assert found.said(range(pieces)) == said(faces()[:pieces])
        found.keep(faces(2)[:pieces])
        assert found.are_whole(pieces, found_files(store)) and found.said([0]) == said(faces(2)[:1])
        forget_all(store)
    assert number > len(["two files", "and the marker"]) * 2, "each is opened, and linked"


@pytest.mark.parametrize("lacking", [0, PIECES_OF_A_FILE, 2 * PIECES_OF_A_FILE])
def test_what_was_taken_away_is_made_anew_and_ends_a_run_that_is_at_it(store: Store, lacking: int) -> None:
    found = FoundFaces.of(store, "a.mp4", MADE_OF)
    found.keep(faces())
    store.delete(f"{FOUND_FACES}/{found.folder}/{lacking // PIECES_OF_A_FILE:06d}.jsonl")
    assert not found.are_whole(PIECES, found_files(store))
    with pytest.raises(MachineError, match="run the same command again"):
        found.said([lacking])
    other = (lacking + PIECES_OF_A_FILE) % (3 * PIECES_OF_A_FILE)
    assert found.said([other]) == said(faces())[other : other + 1]
    with pytest.raises(MachineError, match="was taken away or cut"):
        found.said([PIECES])


def test_what_is_of_no_more_use_is_removed_and_the_rest_stays(store: Store) -> None:
    kept = {name: FoundFaces.of(store, name, MADE_OF) for name in ("a.mp4", "b.mp4", "a.mp4/c.mp4")}
    for one in [*kept.values(), FoundFaces.of(store, "a.mp4", MADE_OF[::-1])]:
        one.keep(faces())
    store.make_folder("clips")
    store.create("clips/a.mp4", b"x")
    forget_others(store, {one.folder for one in kept.values()}, found_files(store))
    assert {name.split("/")[0] for name in found_files(store)} == {one.folder for one in kept.values()}
    forget_clips(store, ["a.mp4", "never seen.mp4"])
    assert sorted(name.split("/")[0] for name in found_files(store) if name.endswith(WHOLE)) == sorted(
        kept[name].folder for name in ("b.mp4", "a.mp4/c.mp4")
    )
    forget_all(store)
    assert found_files(store) == set() and store.read("clips/a.mp4") == b"x"
    forget_all(store)
