"""Tracks of faces through synthetic clips: who is who, no frame without a face, and smooth ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.clips import people
from keyanon_core.clips.tracking import NOBODY, SeenFace, SeenFrames, track_faces
from keyanon_core.faces.detection import Face, box_iou
from keyanon_core.faces.landmarks import template_in_box

SIZE = (1280, 720)
ANNA, BERT, CLEO = np.eye(3, 128, dtype=np.float32)


def same_person(first, second):
    assert first.shape == second.shape == (128,)
    return float(np.linalg.norm(first - second)) < 0.6


def seen(x, y=300.0, side=100.0, who=None, score=0.9):
    """A face with its middle at (x, y)."""
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    points = np.array([[-0.2, -0.15], [0.2, -0.15], [0, 0.05], [-0.15, 0.25], [0.15, 0.25]])
    return SeenFace(Face(box, points * side + (x, y), score), who)


def at_rate(count, rate=30.0):
    return np.arange(count) / rate


def middle(face):
    x0, y0, x1, y1 = face.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


def track(frames, times=None, **options):
    times = at_rate(len(frames)) if times is None else times
    size, alike = options.pop("size", SIZE), options.pop("same_person", same_person)
    return list(track_faces(SeenFrames.of(frames), times, size, alike, **options))


def tracks_of(tracked, *, filled=True):
    return {face.track for frame in tracked for face in frame if filled or not face.filled}


def detected(tracked):
    """By frame, the tracks of the faces that were detected, in the order in which they were given."""
    return [[face.track for face in frame if not face.filled] for frame in tracked]


def test_clips_without_frames_or_faces_have_no_tracks():
    assert track([]) == []
    assert track([[]]) == [[]]
    assert track([[], [], []]) == [[], [], []]


def test_one_frame_keeps_its_faces_as_they_are():
    first, second = seen(800), seen(200, who=ANNA)
    ((one, other),) = track([[first, second]])
    assert (one.track, other.track) == (0, 1) and not one.filled and not other.filled
    for tracked, source in ((one, first), (other, second)):
        assert tracked.face.box == source.face.box and tracked.face.score == source.face.score
        assert np.array_equal(tracked.face.landmarks, source.face.landmarks)


def test_times_that_are_not_of_the_frames_or_do_not_rise_are_refused():
    for times in ([0.0], [0.0, 1.0, 2.0], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="one time"):
            track([[], []], np.array(times))
    for times in ([0.0, 0.0], [1.0, 0.0], [0.0, np.nan], [0.0, np.inf]):
        with pytest.raises(ValueError, match="do not rise"):
            track([[], []], np.array(times))


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_people_who_cross_keep_their_tracks(vectors, order):
    anna, bert = (ANNA, BERT) if vectors else (None, None)
    frames = [[seen(300 + 8 * f, 300, who=anna), seen(700 - 8 * f, 330, who=bert)][:: order**f] for f in range(50)]
    tracked = track(frames)
    assert detected(tracked) == [[0, 1][:: order**f] for f in range(50)]


def test_people_who_meet_and_turn_back_are_told_apart_by_their_vectors():
    way = [*range(0, 26), *range(26, 0, -1)]
    frames = [[seen(400 + 5 * x, who=ANNA), seen(660 - 5 * x, who=BERT)] for x in way]
    assert detected(track(frames)) == [[0, 1]] * len(way)


def test_different_people_at_one_place_never_share_a_track():
    tracked = track([[seen(400, who=ANNA)]] * 10 + [[seen(400, who=BERT)]] * 10)
    assert detected(tracked) == [[0]] * 10 + [[1]] * 10


def test_vectors_known_now_and_then_part_a_track():
    frames = [[seen(400, who={0: ANNA, 5: ANNA, 12: BERT}.get(f))] for f in range(20)]
    assert detected(track(frames)) == [[0]] * 12 + [[1]] * 8


def test_a_person_who_jumps_is_known_by_the_vector_where_place_would_not_do():
    frames = [[seen(400, who=ANNA)]] * 10 + [[seen(500, who=ANNA)]] * 10
    assert tracks_of(track(frames)) == {0}
    strangers = [[seen(400)]] * 10 + [[seen(500)]] * 10
    assert tracks_of(track(strangers)) == {0, 1}


def test_missed_detections_are_filled_on_the_way_from_one_to_the_other():
    frames = [[seen(300 + 6 * f, side=100 + f, score=0.9 if f < 30 else 0.6)] for f in range(60)]
    for f in [*range(20, 40), 50]:
        frames[f] = []
    tracked = track(frames)
    for f, faces in enumerate(tracked):
        (one,) = faces
        assert one.track == 0 and one.filled == (not frames[f])
        truth = seen(300 + 6 * f, side=100 + f).face
        assert np.abs(np.array(one.face.box) - truth.box).max() < 1e-6
        assert np.abs(one.face.landmarks - truth.landmarks).max() < 1e-6
    assert [tracked[f][0].face.score for f in (28, 31)] == [0.9, 0.6]


@pytest.mark.parametrize(("missed", "filled"), [(29, True), (30, False)])
def test_a_face_is_continued_by_place_for_a_second(missed, filled):
    frames = [[seen(300)]] * 10 + [[]] * missed + [[seen(300)]] * 10
    tracked = track(frames)
    assert tracks_of(tracked) == ({0} if filled else {0, 1})
    assert all(tracked) == filled


def test_tracks_reach_beyond_both_their_ends_along_their_way():
    frames = [[seen(300 + 6 * f, 200 + 3 * f)] if 20 <= f < 40 else [] for f in range(60)]
    tracked = track(frames)
    there = [f for f, faces in enumerate(tracked) if faces]
    assert there == list(range(11, 49))
    for f in there:
        (one,) = tracked[f]
        assert one.filled == (not frames[f])
        assert np.allclose(middle(one.face), (300 + 6 * f, 200 + 3 * f))
        assert np.allclose(one.face.landmarks, seen(300 + 6 * f, 200 + 3 * f).face.landmarks)


def test_a_face_that_leaves_the_frame_is_not_followed_farther():
    frames = [[]] * 12 + [[seen(-7 + 10 * f)] for f in range(10)] + [[]] * 12
    places = [middle(faces[0].face)[0] for faces in track(frames)[:12] if faces]
    assert np.allclose(places, [-47, -37, -27, -17])
    below = [[]] * 9 + [[seen(300, 690 + 9 * f)] for f in range(5)] + [[]] * 12
    places = [middle(faces[0].face)[1] for faces in track(below)[14:] if faces]
    assert np.allclose(places, [735, 744, 753, 762])


def test_a_way_that_is_too_fast_is_followed_at_three_sizes_a_second():
    frames = [[seen(300 + 20 * f)] for f in range(10)] + [[]] * 20
    (after,) = track(frames)[9 + 9]
    assert np.allclose(middle(after.face), (480 + 3 * 100 * 9 / 30, 300))


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 10])
def test_a_face_is_taken_to_stay_for_as_long_as_it_was_seen_and_stands_for_somebody_from_the_third_time_on(frames):
    tracked = track([[]] * 20 + [[seen(300)]] * frames + [[]] * 20)
    around = min(frames, 9)
    assert [f for f, faces in enumerate(tracked) if faces] == list(range(20 - around, 20 + frames + around))
    assert all(np.allclose(faces[0].face.box, seen(300).face.box) for faces in tracked if faces)
    assert tracks_of(tracked) == {0 if frames >= 3 else NOBODY}


def test_who_is_seen_here_and_there_is_somebody_and_numbers_are_theirs_alone():
    once, often = [[seen(600, who=CLEO)]], [[seen(300, who=ANNA)], *[[]] * 60]
    assert detected(track(once + often * 3))[:2] == [[NOBODY], [0]]
    assert tracks_of(track([*once, *often * 2])) == {NOBODY}


def test_at_a_low_rate_the_last_two_detections_tell_where_a_face_goes():
    (after,) = track([[seen(300)], [seen(300)], [seen(350)], []], np.array([0, 0.5, 1, 1.2]))[-1]
    assert np.allclose(middle(after.face), (370, 300))
    (before,) = track([[], [seen(300)], [seen(350)], [seen(350)]], np.array([0, 0.2, 0.7, 1.2]))[0]
    assert np.allclose(middle(before.face), (280, 300))


def test_times_count_not_frames():
    times = np.cumsum(np.where(np.arange(60) % 2, 0.01, 0.09))
    frames = [[seen(300 + 40 * times[f])] if 20 <= f < 40 and f != 30 else [] for f in range(60)]
    tracked = track(frames, times)
    there = [f for f, faces in enumerate(tracked) if faces]
    expected = [f for f in range(60) if times[20] - 0.3 - 1e-6 <= times[f] <= times[39] + 0.3 + 1e-6]
    assert there == expected
    for f in there:
        assert np.allclose(middle(tracked[f][0].face), (300 + 40 * times[f], 300))


def test_nothing_goes_across_a_cut():
    frames = [[seen(300)]] * 10 + [[]] * 3 + [[seen(305)]] * 10
    tracked = track(frames, cuts=[12])
    assert detected(tracked) == [[0]] * 10 + [[]] * 3 + [[1]] * 10
    assert [[face.track for face in faces] for faces in tracked[10:13]] == [[0], [0], [1]]
    assert all(np.array_equal(faces[0].face.box, seen(300).face.box) for faces in tracked[:12])
    assert all(np.array_equal(faces[0].face.box, seen(305).face.box) for faces in tracked[12:])


def test_a_person_is_one_track_on_both_sides_of_a_cut():
    frames = [[seen(300, who=ANNA), seen(600, who=BERT)]] * 10 + [[seen(310, who=BERT), seen(900, who=ANNA)]] * 10
    tracked = track(frames, cuts={10, 500, -3, 0})
    assert detected(tracked) == [[0, 1]] * 10 + [[1, 0]] * 10
    assert all(len(faces) == 2 for faces in tracked)


@pytest.mark.parametrize(("back", "tracks"), [(ANNA, [0, 0]), (BERT, [0, 1]), (None, [0, 1])])
def test_who_leaves_and_comes_back_is_one_track_by_the_vector(back, tracks):
    frames = [[seen(300, who=ANNA)]] * 20 + [[]] * 90 + [[seen(900, who=back)]] * 20
    tracked = track(frames)
    assert detected(tracked) == [[tracks[0]]] * 20 + [[]] * 90 + [[tracks[1]]] * 20
    assert [bool(faces) for faces in tracked] == [True] * 29 + [False] * 72 + [True] * 29


def test_a_person_seen_from_the_side_is_known_by_some_of_the_vectors():
    side = np.zeros(128, np.float32)
    side[0] = side[5] = 0.7  # 0.76 from Anna seen from the front, and nearer than 0.6 to half of it
    turned = [ANNA + (side - ANNA) * share for share in (0, 0, 0, 0, 0.5, 0.5, 1, 1)]
    first = [[seen(300, who=vector)] for vector in turned]
    tracked = track([*first, *[[]] * 60, *[[seen(900, who=side + (side - ANNA) * 0.3)]] * 5])
    assert tracks_of(tracked) == {0}


def test_one_vector_of_many_that_looks_alike_makes_nobody_the_same():
    first = [[seen(300, who=ANNA if f else (ANNA + BERT) / 2)] for f in range(16)]
    tracked = track([*first, *[[]] * 60, *[[seen(900, who=(ANNA + 3 * BERT) / 4)]] * 5])
    assert tracks_of(tracked) == {0, 1}


def test_of_two_people_who_look_alike_the_more_alike_goes_on():
    near, far = ANNA + 0.3 * CLEO, ANNA + 0.55 * BERT
    frames = (
        [[seen(300, who=far), seen(600, who=near + 0.0)]] * 10 + [[]] * 60 + [[seen(900, who=ANNA - 0.2 * BERT)]] * 5
    )
    assert detected(track(frames))[-1] == [1]


def test_two_faces_at_one_time_are_two_people_whatever_their_vectors_say():
    frames = [[seen(300, who=ANNA), seen(700, who=ANNA)]] * 10 + [[seen(700, who=ANNA)]] * 50
    tracked = track(frames)
    assert detected(tracked) == [[0, 1]] * 10 + [[1]] * 50
    for frame in tracked:
        assert len({face.track for face in frame}) == len(frame)


@pytest.mark.parametrize("last", [0, 1])
def test_of_two_who_look_the_same_the_one_seen_last_goes_on(last):
    twins = [seen(300, who=ANNA), seen(700, who=ANNA)]
    frames = [twins] * 10 + [[twins[last]]] * 10 + [[]] * 60 + [[seen(1000, who=ANNA)]]
    assert detected(track(frames))[-1] == [last]


def test_a_track_is_once_in_a_frame_where_its_person_soon_appears_elsewhere():
    frames = [[seen(300, who=ANNA)]] * 10 + [[]] * 5 + [[seen(1000, who=ANNA)]] * 10
    tracked = track(frames)
    assert [len(faces) for faces in tracked] == [1] * 25 and tracks_of(tracked) == {0}
    assert [round(middle(faces[0].face)[0]) for faces in tracked[10:15]] == [300, 300, 300, 1000, 1000]


def test_one_who_jumps_nearby_is_filled_on_the_way():
    frames = [[seen(300, who=ANNA)]] * 10 + [[]] * 3 + [[seen(480, who=ANNA)]] * 10
    places = [middle(faces[0].face)[0] for faces in track(frames)[9:14]]
    assert np.allclose(np.diff(places), 45, atol=8)


@pytest.mark.parametrize(
    ("x", "missed", "filled"),
    [(330, 89, True), (330, 90, False), (351, 89, False)],
    ids=["there", "too long", "elsewhere"],
)
def test_one_who_stays_at_a_place_is_filled_for_three_seconds(x, missed, filled):
    before, after = [[seen(300, who=ANNA)]] * 3, [[seen(x, who=ANNA)]] * 3
    tracked = track([*before, *[[]] * missed, *after])
    assert tracks_of(tracked) == {0}
    assert len(tracked[3 + missed // 2]) == filled
    if filled:
        assert all(len(frame) == 1 for frame in tracked)
        assert np.allclose(middle(tracked[3 + missed // 2][0].face), [(300 + x) / 2, 300], atol=1)


@pytest.mark.parametrize("place", [(50, 300), (1229, 300), (300, 50), (300, 669)])
def test_who_is_at_the_border_may_have_left(place):
    tracked = track([*[[seen(*place, who=ANNA)]] * 2, *[[]] * 60, [seen(*place, who=ANNA)]])
    assert tracks_of(tracked) == {0} and tracked[30] == []


def test_another_scene_and_another_person_are_not_there_all_the_time():
    frames = [[seen(300, who=ANNA)], *[[]] * 60, [seen(300, who=ANNA)]]
    assert track(frames, cuts=[20])[30] == []
    assert track([*frames[:-1], [seen(300, who=BERT)]])[30] == [] and track([*frames[:-1], [seen(300)]])[30] == []


def test_one_who_is_hidden_behind_another_goes_on_and_is_not_shown_through():
    frames = []
    for f in range(60):
        bert = seen(100 + 10 * f, 300, who=BERT)
        hidden = abs(100 + 10 * f - 400) < 60
        frames.append([bert] if hidden else [bert, seen(400, 300, who=ANNA)])
    tracked = track(frames)
    assert [sorted(tracks) for tracks in detected(tracked)] == [[0] if len(faces) == 1 else [0, 1] for faces in frames]
    for faces in tracked:
        filled = [face for face in faces if face.filled]
        assert all(box_iou(one.face, faces[0].face) <= 0.5 for one in filled)
        alone = [one for one in filled if box_iou(one.face, faces[0].face) <= 0.5]
        assert len(faces) == 2 or (len(faces) == 1 and not alone)
    assert any(len(faces) == 1 for faces in tracked)
    assert any(face.filled for faces in tracked for face in faces)


def test_a_face_that_was_taken_for_another_is_not_filled_over_its_detection():
    frames = [[seen(400, who=ANNA)]] * 10 + [[seen(404, who=BERT)]] * 10
    tracked = track(frames)
    assert [[face.track for face in faces] for faces in tracked] == [[0]] * 10 + [[1]] * 10


def test_smoothing_takes_jitter_and_leaves_motion():
    rng = np.random.default_rng(0)
    truth = [seen(300 + 4 * f, 300 + 20 * np.sin(f / 15)) for f in range(120)]
    frames = [
        [
            SeenFace(
                Face(
                    tuple(np.array(one.face.box) + rng.normal(0, 1.5, 4)),
                    one.face.landmarks + rng.normal(0, 1.5, (5, 2)),
                    0.9,
                )
            )
        ]
        for one in truth
    ]
    tracked = track(frames)

    def error(faces):
        return np.sqrt(
            np.mean([np.square(face.landmarks - one.face.landmarks) for face, one in zip(faces, truth, strict=True)])
        )

    before, after = error([faces[0].face for faces in frames]), error([faces[0].face for faces in tracked])
    assert after < 0.6 * before
    boxes = np.array([faces[0].face.box for faces in tracked]) - [one.face.box for one in truth]
    assert np.sqrt(np.square(boxes).mean()) < 0.6 * 1.5
    steps = np.diff([faces[0].face.landmarks[0] for faces in tracked], 2, axis=0)
    raw = np.diff([faces[0].face.landmarks[0] for faces in frames], 2, axis=0)
    assert np.abs(steps).mean() < 0.25 * np.abs(raw).mean()


@pytest.mark.parametrize("side", [20.0, 100.0])
def test_smoothing_moves_no_landmark_farther_than_a_tenth_of_the_face(side):
    rng = np.random.default_rng(1)
    frames = [[seen(*(300 + rng.normal(0, 0.2 * side, 2)), side)] for _ in range(90)]
    tracked = track(frames)
    moved = np.array(
        [
            np.linalg.norm(faces[0].face.landmarks - raw[0].face.landmarks, axis=1).max()
            for faces, raw in zip(tracked, frames, strict=True)
        ]
    )
    assert moved.max() <= 0.1 * side + 1e-9 and moved.max() > 0.09 * side


def test_equal_input_gives_equal_tracks():
    rng = np.random.default_rng(2)
    known = [ANNA, BERT, CLEO, None]
    frames = [
        [
            seen(*rng.uniform(100, 600, 2), rng.uniform(50, 150), known[rng.integers(4)])
            for _ in range(rng.integers(0, 4))
        ]
        for _ in range(100)
    ]

    def told(tracked):
        return [[(one.track, one.filled, one.face.to_dict()) for one in faces] for faces in tracked]

    assert told(track(frames, cuts=[30])) == told(track(frames, cuts=(30,)))


detections = st.builds(
    lambda x, y, width, height, who: SeenFace(
        Face((x, y, x + width, y + height), template_in_box((x, y, x + width, y + height)), 0.8), who
    ),
    st.floats(-50, 600),
    st.floats(-50, 400),
    st.floats(4, 300),
    st.floats(4, 300),
    st.sampled_from([None, ANNA, BERT]),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(detections, max_size=4), max_size=12),
    st.lists(st.floats(0.005, 0.8), min_size=12, max_size=12),
    st.sets(st.integers(0, 12), max_size=2),
)
def test_nobody_who_was_seen_is_lost(frames, steps, cuts):
    times = np.cumsum(steps)[: len(frames)]
    tracked = track(frames, times, cuts=cuts)
    assert len(tracked) == len(frames)
    for given_faces, faces in zip(frames, tracked, strict=True):
        shown = [one for one in faces if not one.filled]
        assert len(shown) == len(given_faces)
        assert [one.filled for one in faces] == [False] * len(shown) + [True] * (len(faces) - len(shown))
        for one, given_face in zip(shown, given_faces, strict=True):
            assert box_iou(one.face, given_face.face) > 0.5 and one.face.score == 0.8
        known = [one.track for one in faces if one.track != NOBODY]
        assert len(set(known)) == len(known)
        for one in faces:
            x0, y0, x1, y1 = one.face.box
            assert x0 < x1 and y0 < y1 and np.isfinite(one.face.landmarks).all()
        for one in faces[len(shown) :]:
            assert all(box_iou(one.face, other.face) <= 0.5 for other in shown)
    numbers = [one.track for faces in tracked for one in faces if one.track != NOBODY and not one.filled]
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))
    assert all(numbers.count(track) >= min(3, len(frames)) for track in numbers)


def test_different_people_never_share_a_track_by_place_in_any_order():
    rng = np.random.default_rng(3)
    who = [ANNA, BERT, CLEO]
    frames = [
        [seen(300 + rng.normal(0, 5), who=who[p]) for p in rng.permutation(3)[: rng.integers(1, 4)]] for _ in range(80)
    ]
    tracked = track(frames)
    owners = {}
    for given_faces, faces in zip(frames, tracked, strict=True):
        for one, given_face in zip(faces, given_faces, strict=False):
            owners.setdefault(one.track, set()).add(int(given_face.embedding.argmax()))
    assert len(owners) == 3 and all(len(who) == 1 for who in owners.values())


def test_a_long_clip_with_missed_detections_is_two_tracks_without_a_gap():
    count = 4_000
    frames = [
        [seen(400 + 200 * np.sin(f / 50), who=ANNA), seen(900 + 100 * np.cos(f / 70), who=BERT)][: 2 if f % 9 else 1]
        for f in range(count - 1)
    ]
    tracked = track([*frames, []])
    assert [[face.track for face in faces] for faces in tracked] == [[0, 1]] * count


def test_among_many_strangers_the_known_are_still_known_and_not_all_are_asked(monkeypatch):
    monkeypatch.setattr(people, "MAX_PEOPLE", 20)
    rng = np.random.default_rng(4)
    strangers = [[seen(600, who=rng.normal(size=128).astype(np.float32))] for _ in range(200)]
    frames = [*strangers[:10], [seen(300, who=ANNA)], [seen(300, who=ANNA)], *strangers[10:], [seen(900, who=ANNA)]]
    asked = []

    def counted(first, second):
        asked.append(None)
        return same_person(first, second)

    times = np.where(np.arange(len(frames)) == 11, 20.1, 2.0 * np.arange(len(frames)))
    tracked = track(frames, times, same_person=counted)
    assert detected(tracked)[-1] == detected(tracked)[11] == detected(tracked)[10]
    assert tracks_of(tracked) == {NOBODY, 0} and len(asked) < 2 * 20 * 2 * len(frames)
