"""Who is who in a clip, without Ray: what a piece's frames say travels and comes back, cuts, and the faces of each row."""

import base64
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast
from weakref import WeakSet

import numpy as np
import pytest

from jobs.blocks import ENCODED, FACES, FAILURE, GIVEN, ID, KEPT_FACES, PERMANENT, ROW, source_table
from jobs.errors import MachineError
from jobs.output.clip_tracks import read_tracks
from jobs.output.found_faces import FoundFaces, forget_others, found_files
from jobs.run.anonymize_stage import _task
from jobs.run.detect_stage import DetectFaces, FaceModelChoice
from jobs.run.placement import Placement
from jobs.run.progress import Monitor, RunState
from jobs.run.track_stage import SEEN, VIEW, FindInPieces, SeenPiece, faces_of
from jobs.run.tracks import CUT, Tracker, by_piece, cuts_between, looked_through, subject_of, tracked, tracks_of
from jobs.sources.clips import Clip, Clips
from jobs.sources.source import open_source
from jobs.storage.opening import open_store
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.index import index_clip
from keyanon_core.clips.piece import MAGIC, Piece, read_piece
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.errors import PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face
from tests.jobs.conftest import MakeConfig
from tests.jobs.tiny_clips import FRAMES, HEIGHT, tiny_clip

MARKS = np.array([[10.5, 12], [20, 12], [15, 18], [11, 24], [19, 24]], np.float64)
FIRST, SECOND = 32, 8  # frames of the two pieces


def face_at(x: float) -> Face:
    return Face((x + 5, 5, x + 25, 30), MARKS + np.array([x, 0]), 0.9)


def seen(*frames: list[tuple[Face, list[float] | None]], grey: int = 0) -> str:
    """`SEEN` of a piece: the faces of each frame with their identity vectors, before one grey."""
    view = base64.b64encode(np.full(VIEW, grey, np.uint8).tobytes()).decode()
    return json.dumps([{"view": view, "faces": [said(face, vector) for face, vector in frame]} for frame in frames])


def said(face: Face, vector: list[float] | None) -> dict[str, Any]:
    told = None if vector is None else base64.b64encode(np.array(vector, np.float32).tobytes()).decode()
    return {**face.to_dict(), "vector": told}


def views(*greys: float) -> np.ndarray:
    return np.array([[grey] * 12 for grey in greys], np.uint8)


def unknown(frames: int) -> np.ndarray:
    return np.zeros((frames, 0), np.uint8)


def same_person(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() < 0.5)


def known_of(
    clip: Clip, told: dict[int, str | None], alike: Callable[[np.ndarray, np.ndarray], bool]
) -> dict[int, PieceFaces]:
    pieces = pieces_of(told)
    return dict(zip(clip.rows, by_piece(clip, tracked(clip, pieces, alike)), strict=True))


def pieces_of(told: dict[int, str | None]) -> dict[int, SeenPiece | None]:
    return {row: None if one is None else SeenPiece.of(one) for row, one in told.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    tiny_clip(path)
    return Clip("sub/a.mp4", str(path), range(5, 7), 0xBEEF, index_clip(str(path), "mp4"))


def test_a_cut_is_where_most_of_a_frame_changes_within_a_piece_or_between_two() -> None:
    assert cuts_between([views(0, 0, 100), views(100, 100), views(0)]) == [2, 5]
    assert cuts_between([views(0, CUT), views(2 * CUT)]) == []
    assert cuts_between([views(0, CUT + 1)]) == [1]
    assert cuts_between([]) == cuts_between([views(7)]) == []


def test_before_and_after_frames_that_are_not_known_a_scene_may_begin() -> None:
    assert cuts_between([views(0, 0), unknown(3), views(0, 0)]) == [2, 5]
    assert cuts_between([unknown(2), unknown(2)]) == []
    assert cuts_between([unknown(2), views(9)]) == [2]


def test_what_a_pieces_frames_show_comes_back_as_it_was_seen() -> None:
    face, vector = face_at(0.1), [0.25, -1.5]
    piece = SeenPiece.of(seen([(face_at(50), None), (face, vector)], [], [(face_at(3), vector[::-1])], grey=7))
    frames = SeenPiece.frames([piece, SeenPiece.unseen(2), piece])
    assert frames.counts.tolist() == [2, 0, 1, 0, 0, 2, 0, 1]
    assert frames.points[[1, 4], :2].reshape(2, 4).tolist() == [list(face.box)] * 2
    assert np.array_equal(frames.points[1, 2:], face.landmarks) and frames.scores.tolist() == [face.score] * 6
    told = [None if one is None else one.tolist() for one in frames.embeddings]
    assert told == [None, vector, vector[::-1]] * 2
    assert piece.views.shape == (3, VIEW[0] * VIEW[1]) and (piece.views == 7).all()


def test_faces_of_a_piece_survive_their_way_exactly_and_silence_is_refused() -> None:
    there = [face_at(1 / 3).moved(HEIGHT, 1), face_at(9)]
    faces = PieceFaces(there, ["somebody ü", None], True, {"somebody ü": face_at(1 / 7)})
    back = PieceFaces.from_json(faces.to_json())
    assert back.following["somebody ü"].to_dict() == face_at(1 / 7).to_dict()
    assert (back.subjects, back.somebody) == (["somebody ü", None], True)
    assert back.faces[0].to_dict() == faces.faces[0].to_dict()
    assert PieceFaces.from_json(PieceFaces([], [], False).to_json()) == PieceFaces([], [], False)
    with pytest.raises(PictureError, match="run the same command again") as raised:
        PieceFaces.from_json(None)
    assert raised.value.reason == "not_tracked"


def test_who_anonymizes_a_piece_is_told_of_the_frame_after_it() -> None:
    told = PieceFaces([face_at(1)], ["somebody"], True, {"somebody": face_at(2)})
    faces = json.dumps([face.to_dict() for face in told.faces])
    row = {ID: "a.mp4/000000000.mp4", ENCODED: MAGIC, FACES: faces, KEPT_FACES: "[]", GIVEN: told.to_json()}
    task = _task({**row, PERMANENT: False})
    assert (task.subjects, task.is_part) == (["somebody"], True)
    assert {who: face.box for who, face in task.following.items()} == {"somebody": face_at(2).box}


def test_one_track_goes_through_the_pieces_of_a_clip_below_each_other(clip: Clip) -> None:
    frames = [[(face_at(number / 2), [1.0])] for number in range(FRAMES)]
    known = known_of(clip, {5: seen(*frames[:FIRST]), 6: seen(*frames[FIRST:])}, same_person)
    assert list(known) == [5, 6]
    assert [len(known[row].faces) for row in known] == [FIRST, SECOND]
    assert {subject for one in known.values() for subject in one.subjects} == {subject_of(clip, 0)}
    assert all(one.somebody for one in known.values())
    for row in known:
        tops = [face.box[1] // HEIGHT for face in known[row].faces]
        assert tops == list(range(len(tops))), "the n-th frame lies n frames below the first"
    (after,), first = known[5].following.values(), known[6].faces[0]
    assert (after.box, known[6].following) == (first.box, {}), "where the next piece begins"


def test_different_people_are_different_subjects_and_pieces_without_any_know_of_them(clip: Clip) -> None:
    two = [[(face_at(0), [0.0]), (face_at(60), [9.0])]] * FIRST
    known = known_of(clip, {5: seen(*two, grey=0), 6: seen(*([[]] * SECOND), grey=200)}, same_person)
    assert set(known[5].subjects) == {subject_of(clip, 0), subject_of(clip, 1)}
    assert (known[6].faces, known[6].somebody) == ([], True), "a cut: nobody goes on into the next scene"
    nobody = known_of(clip, {5: seen(*([[]] * FIRST)), 6: seen(*([[]] * SECOND))}, same_person)
    assert not any(one.somebody for one in nobody.values())


def test_what_is_seen_in_a_frame_alone_stands_for_nobody_and_is_hidden(clip: Clip) -> None:
    frames = [[(face_at(0), [0.0])] for _ in range(FIRST)]
    frames[-1].append((face_at(60), None))
    told = pieces_of({5: seen(*frames), 6: seen(*frames[:SECOND])})
    known = tracked(clip, told, same_person)
    before, after = by_piece(clip, known)
    assert before.subjects.count(None) == 2 and after.subjects.count(None) == 1, "it, and a frame before and after it"
    assert set(before.following) == {subject_of(clip, 0)}
    assert [(one.track, one.frames) for one in tracks_of(clip, known)] == [(0, FRAMES)]


class SeesTwice:
    """A detector that sees others when it looks again."""

    def __init__(self, first: list[Face], again: list[Face]) -> None:
        self.first, self.again = first, again

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return list(self.first)

    def look_again(self, pixels: np.ndarray) -> list[Face]:
        return self.again


def test_the_first_pass_takes_up_what_either_search_sees_each_once() -> None:
    found, beside, doubt = face_at(0), face_at(19), face_at(100)
    stage, frame = object.__new__(FindInPieces), np.zeros((60, 200, 3), np.uint8)
    sees = SeesTwice([found], [face_at(2), beside, doubt, replace(doubt, score=0.5)])
    stage.models = cast(FaceModels, SimpleNamespace(detector=sees))
    assert stage._faces(frame) == [found, beside, doubt]
    sees.again = [face_at(17)]
    assert stage._faces(frame) == [found], "a sixth of it is the other's"
    sees.first = []
    assert stage._faces(frame) == [], "a search that sees nothing has looked twice"


@pytest.mark.parametrize(("clipped", "whole"), [(0, 0), (0, -60), (140, 140)])
def test_a_face_that_two_searches_see_at_the_border_is_one_however_far_its_boxes_reach(
    clipped: float, whole: float
) -> None:
    stage, frame = object.__new__(FindInPieces), np.zeros((120, 200, 3), np.uint8)
    first = Face((clipped, 10, clipped + 60, 100), MARKS + np.array([clipped, 40]), 0.9)
    again = Face((whole, 10, whole + 120, 100), MARKS + np.array([whole + 30, 40]), 0.5)
    sees = SeesTwice([first], [again])
    stage.models = cast(FaceModels, SimpleNamespace(detector=sees))
    assert stage._faces(frame) == [first]


@pytest.mark.parametrize(
    ("box", "known"),
    [
        ((0, 10, 60, 100), True),
        ((0, 10, 45, 100), False),
        ((-40, 10, 45, 100), False),
        ((20, 10, 65, 100), True),
        ((155, 10, 240, 100), False),
        ((20, 0, 95, 60), False),
        ((20, 40, 95, 100), True),
        ((20, 75, 95, 150), False),
    ],
)
def test_of_what_the_border_leaves_of_a_face_nobody_is_told(
    box: tuple[float, float, float, float], known: bool
) -> None:
    stage, frame = object.__new__(FindInPieces), np.zeros((120, 200, 3), np.uint8)
    recognizer = SimpleNamespace(embed=lambda views: np.ones((len(views), 128), np.float32))
    stage.models = cast(FaceModels, SimpleNamespace(recognizer=recognizer))
    (vector,) = stage._vectors(frame, [Face(box, MARKS, 0.9)])
    assert (vector is not None) == known


def test_a_piece_that_can_not_be_decoded_parts_scenes_and_has_no_faces(clip: Clip) -> None:
    frames = [[(face_at(0), [1.0])]] * SECOND
    known = known_of(clip, {5: None, 6: seen(*frames)}, same_person)
    assert (known[5].faces, known[5].somebody) == ([], True)
    assert len(known[6].faces) == SECOND


def test_of_a_piece_that_nobody_could_look_through_nothing_is_said_and_it_is_quarantined(clip: Clip) -> None:
    told = {5: seen(*[[(face_at(20), None)]] * FIRST), 6: None}
    seen_by_all, nobody = looked_through(known_of(clip, told, same_person).values(), pieces_of(told))
    assert seen_by_all is not None and len(seen_by_all.faces) == FIRST and nobody is None
    whole, last = index_clip(clip.path, "mp4").cuts()
    stage = object.__new__(DetectFaces)  # without Ray, and without a detector, which pieces need not
    stage.max_pixels = 10**8
    with pytest.raises(PictureError, match="nobody looked for the faces of its clip"):
        stage._of_piece(read_piece(clip.path, last), None)
    damaged = replace(Piece.from_bytes(read_piece(clip.path, whole)), packets=((0, b"no packet"),))
    with pytest.raises(PictureError) as caught:
        stage._of_piece(damaged.to_bytes(), None)
    assert caught.value.reason == "corrupt", "and not that nobody looked"


def test_a_track_is_nobody_elses_in_whatever_clip_takes_the_name(clip: Clip) -> None:
    other = Clip(clip.name, clip.path, clip.rows, 0xBEEE, clip.index)
    named = Clip("b.mp4", clip.path, clip.rows, clip.version, clip.index)
    assert len({subject_of(one, track) for one in (clip, other, named) for track in (0, 1)}) == 6
    assert subject_of(clip, 0) == subject_of(Clip(clip.name, "moved", range(2), 0xBEEF, None), 0)


IN_MEMORY: WeakSet[SeenPiece] = WeakSet()


class CountedPiece(SeenPiece):
    @classmethod
    def of(cls, said: str) -> Self:
        made = super().of(said)
        IN_MEMORY.add(made)
        return made


class SeenBefore(Tracker):
    """Whose pieces were seen elsewhere: somebody in each frame, the clips' pieces turn by turn. asked: names of clips. held: how
    many pieces were in memory when each was given."""

    def _pieces_seen(self, clips: Sequence[Clip]) -> Iterator[tuple[int, str | None]]:
        self.asked, self.held = [clip.name for clip in clips], list[int]()
        for clip in clips:
            for row in reversed(clip.rows):
                self.held.append(len(IN_MEMORY))
                frames = FIRST if row == clip.rows.start else SECOND
                yield row, None if clip.name.startswith("dark") else seen(*[[(face_at(9), [1.0] * 128)]] * frames)


def test_the_driver_holds_one_clip_at_a_time_and_goes_through_none_of_which_all_is_kept(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.run.tracks.SeenPiece", CountedPiece)
    encoded = tiny_clip(tmp_path / "photos" / "0.mp4")
    for number in range(1, 5):
        (tmp_path / "photos" / f"{number}.mp4").write_bytes(encoded)
    (tmp_path / "photos" / "dark.mp4").write_bytes(encoded)

    told: list[RunState] = []

    def gone_through(finished: Collection[int] = (), **changes: Any) -> tuple[SeenBefore, list[PieceFaces | None]]:
        config = make_config(**changes)
        source = open_source(config, config.given())
        assert isinstance(source, Clips)
        models, store = FaceModelChoice("embedded", None, config.min_face), open_store(tmp_path / "out")
        tracker = SeenBefore(config, source, store, models, cast("Placement", None), cast("Monitor", None), told.append)
        tracker.asked = tracker.held = []
        tracker.track(finished)
        given = [row[GIVEN] for unit in source.units((), lambda left: 3) for row in next(unit.read()).to_pylist()]
        return tracker, [None if one is None else PieceFaces.from_json(one) for one in given]

    names = [f"{number}.mp4" for number in range(5)]
    first, faces = gone_through()
    assert [(one.phase, one.rows, one.total) for one in told] == [("finding faces", row, 12) for row in range(1, 13)]
    assert first.asked == [*names, "dark.mp4"] and max(first.held) == len(["the piece before"])
    assert [None if one is None else len(one.faces) for one in faces] == [FIRST, SECOND] * 5 + [None] * 2
    again, same = gone_through(pictures_per_task=3)
    assert again.asked == [] and [one and one.to_json() for one in same] == [one and one.to_json() for one in faces]
    assert read_tracks(first.store, "0.mp4")[0].frames == FRAMES

    (tmp_path / "photos" / "1.mp4").write_bytes(tiny_clip(tmp_path / "other.mp4", shade=99))
    (tmp_path / "photos" / "new.mp4").write_bytes(encoded)
    assert gone_through()[0].asked == ["1.mp4", "new.mp4"], "what is kept is another clip's"
    assert gone_through(max_pixels=10**6)[0].asked == [*names, "dark.mp4", "new.mp4"]
    rest, faces = gone_through(range(8), max_pixels=10**6)
    assert rest.asked == [] and faces[:8] == [None] * 8 and faces[8] is not None
    assert len({name.split("/")[0] for name in found_files(rest.store)}) == len(["4", "dark", "new"])


def test_of_a_clip_at_which_an_attempt_ended_the_places_are_kept_file_by_file(
    tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.output.found_faces.PIECES_OF_A_FILE", 1)
    store, rows = open_store(tmp_path / "out"), clip.rows
    found = FoundFaces.of(store, clip.name, "ab" * 32)
    piece = SeenPiece.of(seen(*[[(face_at(number / 3), [1.0] * 128)] for number in range(FIRST)]))
    placed = found.placed(found_files(store))
    assert placed.said([0, 1]) == [None, None]
    placed.keep(rows, {rows[0]: piece}, rows[0])
    placed = found.placed(found_files(store))
    first, second = placed.said([0, 1])
    assert first == piece.places() and second is None and "view" not in first and "vector" not in first
    there = [[face.to_dict() for face in faces] for faces in faces_of(first)]
    assert there == [[face_at(number / 3).to_dict()] for number in range(FIRST)]
    placed.keep(rows, {rows[0]: piece}, rows[0])  # which is kept already
    placed.keep(rows, {rows[0]: piece, rows[1]: None}, rows[1])
    assert found.placed(found_files(store)).said([1, 0]) == [None, first], "what could not be decoded is tried again"
    forget_others(store, {found.folder}, found_files(store))
    assert len(found_files(store)) == 2
    found.keep([PieceFaces([], [], False), None])
    assert found.are_whole(2, found_files(store)) and not found.placed(found_files(store)).files
    placed.keep(rows, {rows[1]: None}, rows[1])
    forget_others(store, (), found_files(store))
    assert found_files(store) == set()


def test_a_file_of_places_is_written_when_all_its_pieces_were_seen(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    placed, rows = FoundFaces.of(store, "long.mp4", "ab" * 32).placed(()), range(7, 7 + 40)
    together: dict[int, SeenPiece | None] = {}
    kept = []
    for row in [*rows[1:], rows[0]]:
        together[row] = SeenPiece.unseen(1)
        placed.keep(rows, together, row)
        kept.append(len(found_files(store)))
    assert kept == [0] * 30 + [1] * 8 + [2, 3], "16, 16 and 8 pieces, the first of which came last"


@pytest.mark.slow
def test_a_resumed_attempt_is_told_what_was_found_and_looks_for_no_face_there(
    ray_cluster: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.output.found_faces.PIECES_OF_A_FILE", 1)
    tiny_clip(tmp_path / "photos" / "0.mp4")
    config = make_config()
    source = open_source(config, config.given())
    assert isinstance(source, Clips)
    models, store = FaceModelChoice("embedded", None, config.min_face), open_store(tmp_path / "out")
    told: list[list[str | None]] = []

    class Dying(SeenBefore):
        def _pieces_seen(self, clips: Sequence[Clip]) -> Iterator[tuple[int, str | None]]:
            told.append(
                [row[GIVEN] for unit in source.units((), lambda left: 3) for row in next(unit.read()).to_pylist()]
            )
            yield next(super()._pieces_seen(clips))  # its second piece
            raise MachineError("no power")

    for _ in range(2):
        with pytest.raises(MachineError):
            Dying(config, source, store, models, cast("Placement", None), cast("Monitor", None)).track(())
    (nothing, none), (neither, places) = told
    assert (nothing, none, neither) == (None, None, None) and places is not None
    assert [len(faces) for faces in faces_of(places)] == [1] * SECOND
    (unit,) = source.units((), lambda left: 3)
    stage = FindInPieces(models, 1, 10**7, Monitor())
    monkeypatch.setattr(stage, "_faces", lambda frame: pytest.fail("it looked for faces"))
    piece = next(unit.read()).slice(1, 1)
    found = SeenPiece.of(stage(piece).column(SEEN)[0].as_py())
    assert found.places() == places and found.embedded.tolist() == [True, *[False] * (SECOND - 2), True]


@pytest.mark.slow
def test_a_stage_looks_at_every_frame_and_tells_nothing_of_what_is_no_piece(ray_cluster: Path, clip: Clip) -> None:
    assert clip.index is not None
    cuts = list(clip.index.cuts())
    encoded = read_piece(clip.path, cuts[1])
    rows = [
        {ROW: 0, ENCODED: encoded, FAILURE: ""},
        {ROW: 1, ENCODED: None, FAILURE: "unreadable: x"},
        {ROW: 2, ENCODED: b"no piece", FAILURE: ""},
    ]
    stage = FindInPieces(FaceModelChoice("embedded", None, 24), 1, 10**7, Monitor())
    found = {row[ROW]: row[SEEN] for row in stage(source_table(rows)).to_pylist()}
    assert found[1] is None and found[2] is None
    piece = SeenPiece.of(found[0])
    assert piece.counts.tolist() == [0] * SECOND
    greys = [frame.mean() for frame in decode_piece(Piece.from_bytes(encoded), 10**7).frames()]
    assert np.allclose(piece.views.mean(1), greys, atol=2)
