"""Figures from a table of faces that is written down by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from keyanon_core.evaluation.faces import INCEPTION, SOURCE, TEXTURE
from keyanon_core.evaluation.groups import MIN_FACES, UNKNOWN
from keyanon_core.evaluation.metrics import BY_NAME, METRICS
from keyanon_core.evaluation.people import People
from keyanon_core.evaluation.rehearsal import OTHER_KEY, REHEARSAL
from keyanon_core.evaluation.summary import (
    BETWEEN_KEYS,
    DISTANCES,
    FaceTable,
    Figure,
    beyond_limits,
    stranger_distances,
    summarize,
)

PEOPLE = 40
COLUMNS = ("changed_face", "found", "same_outside", "psnr_face", "landmark_shift")


def table(**versions: np.ndarray) -> FaceTable:
    """Sources on a circle of PEOPLE directions, and versions whose identity vectors are given, (PEOPLE, 2)."""
    angle = 2 * np.pi * np.arange(PEOPLE) / PEOPLE
    vectors = {SOURCE: np.stack([np.cos(angle), np.sin(angle)], 1), **versions}
    count = len(vectors) * PEOPLE
    of_versions = np.tile(np.arange(PEOPLE), len(vectors))
    values = {name: np.where(np.arange(count) < PEOPLE, np.nan, 0.5) for name in COLUMNS}
    rest = {name: np.full(count, np.nan) for name in set(BY_NAME) - set(COLUMNS)}
    return FaceTable(
        of_versions,
        np.repeat(np.array(list(vectors)), PEOPLE),
        np.where(of_versions < MIN_FACES - 1, "dark", "light"),
        {**rest, **values},
        {"eye": np.concatenate(list(vectors.values())).astype(np.float32)},
    )


def figures(of: FaceTable) -> dict[str, Figure]:
    return {figure.key: figure for figure in summarize(of)}


def turned(vectors: np.ndarray, places: int) -> np.ndarray:
    return np.roll(vectors, places, axis=0)


SOURCES = table().vectors["eye"]


def test_faces_that_are_their_sources_are_known_and_those_across_the_circle_are_not() -> None:
    found = figures(table(recovered=SOURCES, anonymized=turned(SOURCES, PEOPLE // 2)))
    near, far = ("recovered", "anonymized")
    assert found[f"{near}.rank1.eye"].estimate.value == 1 and found[f"{far}.rank1.eye"].estimate.value == 0
    assert found[f"{near}.rank1.eye"].chance == 1 / PEOPLE
    assert found[f"{near}.cosine.eye"].estimate.value == pytest.approx(1)
    assert found[f"{far}.cosine.eye"].estimate.value == pytest.approx(-1)
    assert found[f"{near}.cosine.eye"].chance == pytest.approx(-1 / (PEOPLE - 1)), (
        "of directions that add up to nothing"
    )
    assert found[f"{near}.tar_far_1.eye"].estimate.value == 1 and found[f"{far}.tar_far_1.eye"].estimate.value == 0
    assert found[f"{near}.eer.eye"].estimate.value == 0
    assert found[f"{near}.linkability.eye"].estimate.value == 1
    assert found[f"{far}.mean_rank.eye"].estimate.value == pytest.approx(2 * PEOPLE / (PEOPLE + 1)), "the last of all"


def test_a_version_of_some_faces_is_held_against_its_own_sources() -> None:
    """The faces of a version need not be the first ones, nor in order."""
    whole = table(recovered=SOURCES)
    some = np.concatenate([np.arange(PEOPLE), PEOPLE + np.array([31, 7, 12, 3])])
    assert figures(whole.rows(some))["recovered.rank1.eye"].estimate.value == 1
    assert figures(whole.rows(some))["recovered.rank1.eye"].estimate.n == 4


def test_a_face_that_a_recognizer_did_not_see_is_in_none_of_its_figures() -> None:
    seen = table(recovered=SOURCES)
    seen.vectors["eye"][PEOPLE + 3] = np.nan  # of the version
    seen.vectors["eye"][5] = np.nan  # of the source: neither probe nor gallery
    found = figures(seen)["recovered.rank1.eye"]
    assert (found.estimate.n, found.chance) == (PEOPLE - 2, pytest.approx(1 / (PEOPLE - 1)))
    assert len(stranger_distances(seen, "eye")) == (PEOPLE - 1) * (PEOPLE - 2)


def test_two_keys_are_compared_with_each_other() -> None:
    other = np.random.default_rng(0).normal(size=(PEOPLE, 2)).astype(np.float32)
    linked = figures(table(**{REHEARSAL: other, OTHER_KEY: other}))[f"{BETWEEN_KEYS}.linkability.eye"]
    apart = figures(table(**{REHEARSAL: other, OTHER_KEY: other[::-1]}))[f"{BETWEEN_KEYS}.linkability.eye"]
    assert linked.estimate.value > 0.9 > apart.estimate.value
    assert BETWEEN_KEYS + ".linkability.eye" not in figures(table(**{OTHER_KEY: other})), "without a first key"


def test_untouched_faces_are_those_below_a_tenth() -> None:
    of = table(anonymized=SOURCES)
    of.values["changed_face"][PEOPLE : PEOPLE + 4] = [0.0, 0.0999, 0.1, math.nan]
    found = figures(of)["anonymized.untouched"].estimate
    assert (found.value, found.n) == (2 / (PEOPLE - 1), PEOPLE - 1)


def test_noise_is_rejected_below_one_in_a_hundred_of_the_faces_of_which_it_is_known() -> None:
    of = table(rehearsal=SOURCES)
    of.values["noise_p"] = np.full(2 * PEOPLE, np.nan)
    of.values["noise_p"][PEOPLE : PEOPLE + 4] = [0.0, 0.0099, 0.01, 0.9]
    found = figures(of)["rehearsal.noise_rejected"]
    assert (found.estimate.value, found.estimate.n, found.chance) == (0.5, 4, 0.01)


def test_a_small_group_has_no_figures() -> None:
    keys = set(figures(table(anonymized=SOURCES)))
    assert "anonymized.found[light]" in keys and "anonymized.found[dark]" not in keys
    assert "anonymized.landmark_shift[light]" not in keys, "only of what a person may be hurt by"
    larger = replace(
        table(anonymized=SOURCES), tone=np.where(np.arange(2 * PEOPLE) % PEOPLE < MIN_FACES, "dark", "light")
    )
    assert "anonymized.found[dark]" in figures(larger)
    larger.values["found"][PEOPLE] = np.nan
    known = {key for key in figures(larger) if "[dark]" in key}
    of_dark = {"anonymized.untouched[dark]", "anonymized.psnr_face[dark]", "anonymized.rank1.eye[dark]"}
    assert known == of_dark, "as many of whom it is known"


def test_a_group_that_is_said_has_figures_among_all_sources_and_the_unsaid_none() -> None:
    protected = np.arange(PEOPLE) < MIN_FACES
    of = table(anonymized=np.where(protected[:, None], turned(SOURCES, 3), SOURCES))
    label = np.where(protected, "f", UNKNOWN)
    label[MIN_FACES : 2 * MIN_FACES] = "m"
    told = figures(replace(of, traits={"gender": np.tile(label, 2)}))
    ranks = {group: told[f"anonymized.rank1.eye[gender={group}]"] for group in ("f", "m")}
    assert [(one.estimate.value, one.estimate.n) for one in ranks.values()] == [(0, MIN_FACES), (1, MIN_FACES)]
    assert [one.chance for one in ranks.values()] == pytest.approx([1 / PEOPLE] * 2), "in the gallery of all"
    assert not any(UNKNOWN in key for key in told)
    assert "anonymized.found[gender=f]" in told and "anonymized.found[gender=f]" not in figures(of)


def test_textures_have_a_distance_and_no_identity() -> None:
    of = table(anonymized=SOURCES)
    vectors = {"eye": of.vectors["eye"], TEXTURE: np.concatenate([SOURCES, SOURCES + 1])}
    keys = figures(replace(of, vectors=vectors))
    assert keys["anonymized.texture_distance"].estimate.value == pytest.approx(2, rel=1e-3), (
        "the means' squared distance"
    )
    kernel = keys["anonymized.texture_kernel_distance"]
    assert kernel.estimate.low > 0 and kernel.chance == 0, "moved, whatever chance does"
    assert not any(TEXTURE in figure.recognizer for figure in keys.values())


def test_fid_is_the_frechet_distance_of_enough_faces_and_no_number_of_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as wide and one to the side: with v the variance of either axis, 2 axes * (1 + v + 9 v - 2 sqrt(9 v v))."""
    of = table(anonymized=SOURCES)
    of = replace(of, vectors={**of.vectors, INCEPTION: np.concatenate([SOURCES, 3 * SOURCES + 1])})
    few = figures(of)
    assert few["anonymized.fid"].estimate.n == 0 and few["anonymized.fid"].to_dict()["value"] is None
    assert beyond_limits({"anonymized.fid": None}, {}, {"anonymized.fid": 50}) == ["anonymized.fid is unknown, over 50"]
    assert few["anonymized.kid"].estimate.n == PEOPLE and few["anonymized.kid"].estimate.low > 0
    assert not any(figure.recognizer == INCEPTION for figure in few.values())
    monkeypatch.setitem(DISTANCES, INCEPTION, ("fid", "kid", PEOPLE))
    variance = float(SOURCES[:, 0].var(ddof=1))
    assert figures(of)["anonymized.fid"].estimate.value == pytest.approx(2 * (1 + 4 * variance), rel=1e-4)


def test_every_figure_is_of_a_metric_and_has_a_json_form() -> None:
    said = [figure.to_dict() for figure in summarize(table(anonymized=SOURCES))]
    assert {one["metric"] for one in said} <= set(BY_NAME) and len(BY_NAME) == len(METRICS)
    assert not any(isinstance(value, float) and not math.isfinite(value) for one in said for value in one.values())


def test_what_is_wished_of_a_recovered_face_is_that_it_is_known() -> None:
    rank = BY_NAME["rank1"]
    assert [rank.better_for(version) for version in ("anonymized", "recovered", "rehearsal-recovered")] == [
        "lower",
        "higher",
        "higher",
    ]
    assert BY_NAME["mean_rank"].better_for("recovered") == "lower"
    assert BY_NAME["psnr_face"].better_for("recovered") == "higher", "likeness is what it is"


def test_limits_are_not_passed_by_what_lies_on_them_and_are_by_what_is_not_known() -> None:
    values = {"a": 0.5, "b": None}
    assert beyond_limits(values, {"a": 0.5}, {"a": 0.5}) == []
    assert beyond_limits(values, {"a": 0.6}, {"a": 0.4}) == ["a is 0.5, under 0.6", "a is 0.5, over 0.4"]
    assert beyond_limits(values, {"b": 0}, {"b": 1}) == ["b is unknown, under 0", "b is unknown, over 1"]
    with pytest.raises(KeyError):
        beyond_limits(values, {"c": 0}, {})


def test_few_faces_give_the_figures_that_few_can() -> None:
    """One pair has no stranger, a hundred pairs one in a hundred, twenty scores of a kind a linkability."""
    whole = table(recovered=SOURCES)

    def of(people: int) -> set[str]:
        return {key.split(".")[1] for key in figures(whole.rows(np.flatnonzero(whole.face < people))) if ".eye" in key}

    always = {"cosine", "rank1", "mean_rank", "eer"}
    assert [of(1), of(2), of(10)] == [set(), always, always]
    assert of(11) == always | {"tar_far_1"}, "110 ordered pairs"
    assert of(19) == always | {"tar_far_1"} and of(20) == always | {"tar_far_1", "linkability"}
    assert of(32) == of(20) and of(33) == of(20) | {"tar_far_01"}


def test_a_version_in_which_nobody_is_seen_has_no_identity() -> None:
    unseen = table(
        anonymized=np.full((PEOPLE, 2), np.nan), **{OTHER_KEY: SOURCES, REHEARSAL: np.full((PEOPLE, 2), np.nan)}
    )
    keys = figures(unseen)
    assert "anonymized.found" in keys and not any(key.startswith(("anonymized.rank1", BETWEEN_KEYS)) for key in keys)


def test_of_too_many_pairs_some_are_drawn_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    every = stranger_distances(table(), "eye")
    np.testing.assert_allclose(np.sort(every)[::2], np.sort(pdist(SOURCES.astype(np.float64))), atol=1e-6)
    assert len(every) == PEOPLE * (PEOPLE - 1)
    monkeypatch.setattr("keyanon_core.evaluation.summary.AT_ONCE", PEOPLE)
    assert np.array_equal(every, stranger_distances(table(), "eye")), "however many are held at once"
    assert not any(len(stranger_distances(table().rows(np.arange(people)), "eye")) for people in (0, 1))
    monkeypatch.setattr("keyanon_core.evaluation.summary.MAX_PAIRS", PEOPLE * PEOPLE - 1)
    some = stranger_distances(table(), "eye")
    assert PEOPLE * PEOPLE / 2 < len(some) < len(every) and (some > 0).all(), "never a source and itself"
    assert np.array_equal(some, stranger_distances(table(), "eye"))


def test_a_figure_names_its_group_and_recognizer_in_json() -> None:
    said = {one["key"]: one for one in (figure.to_dict() for figure in summarize(table(anonymized=SOURCES)))}
    grouped, told = said["anonymized.found[light]"], said["anonymized.rank1.eye"]
    assert (grouped["group"], grouped["recognizer"], told["group"], told["recognizer"]) == ("light", None, None, "eye")


def known(of: FaceTable, person: np.ndarray, alone: np.ndarray | None = None) -> FaceTable:
    """The same faces, of whom it is known whose they are. person, alone: (PEOPLE,)."""
    alone = np.ones(PEOPLE, np.bool_) if alone is None else alone
    return replace(of, people=People(person[of.face].astype(np.int64), alone[of.face]))


COUPLES = np.arange(PEOPLE) // 2  # neighbours on the circle are one person
NEXT = np.arange(PEOPLE).reshape(-1, 2)[:, ::-1].ravel()  # the other photograph of each


def test_two_photographs_of_one_person_are_no_strangers_and_either_is_that_person() -> None:
    """Each face here is the other photograph of its person: by the picture it is not known again, by the person it is."""
    swapped = table(anonymized=SOURCES[NEXT])
    alone, told = figures(swapped), figures(known(swapped, COUPLES))
    rank, chance = told["anonymized.rank1.eye"], 2 / PEOPLE
    assert (alone["anonymized.rank1.eye"].estimate.value, rank.estimate.value) == (0, 1)
    assert (alone["anonymized.rank1.eye"].chance, rank.chance) == (1 / PEOPLE, pytest.approx(chance))
    assert told["anonymized.mean_rank.eye"].estimate.value == pytest.approx(3 / (PEOPLE + 1)), (
        "two of so many are theirs"
    )
    strangers = stranger_distances(known(swapped, COUPLES), "eye")
    assert len(strangers) == PEOPLE * (PEOPLE - 2)
    apart = np.array([a @ b for a, i in zip(SOURCES, COUPLES, strict=True)
                      for b, j in zip(SOURCES, COUPLES, strict=True) if i != j])  # fmt: skip
    assert told["anonymized.cosine.eye"].chance == pytest.approx(apart.mean(), abs=1e-6)
    assert np.sort(strangers**2) == pytest.approx(np.sort(2 - 2 * apart), abs=1e-5)


def test_a_face_is_held_against_another_photograph_of_its_person_where_there_is_one() -> None:
    near = SOURCES.copy()
    near[1::2] = 0.7 * near[::2] + 0.3 * near[1::2]
    of = table(anonymized=turned(near, PEOPLE // 2), recovered=near)
    of.vectors["eye"][:PEOPLE] = near
    told = figures(known(of, COUPLES))
    ranks = {version: told[f"{version}.other_photo_rank1.eye"] for version in (SOURCE, "recovered", "anonymized")}
    assert {version: rank.estimate.n for version, rank in ranks.items()} == dict.fromkeys(ranks, PEOPLE)
    assert ranks["anonymized"].estimate.value == 0 and ranks["anonymized"].chance == pytest.approx(1 / (PEOPLE - 1))
    assert ranks[SOURCE] == replace(ranks["recovered"], version=SOURCE), "unprotected"
    assert ranks[SOURCE].estimate.value == 1
    assert told["anonymized.other_photo_tar_far_1.eye"].estimate.value == 0
    triples = known(table(recovered=SOURCES), np.arange(PEOPLE) // 3)
    assert figures(triples)[f"{SOURCE}.other_photo_rank1.eye"].estimate.n == PEOPLE - 1, "the last one has no other"
    assert not any("other_photo" in key for key in figures(known(table(recovered=SOURCES), np.arange(PEOPLE))))
    assert not any("other_photo" in key for key in figures(table(recovered=SOURCES)))


def test_one_face_for_a_person_and_another_for_another_are_told_where_people_are_known() -> None:
    near = SOURCES.copy()
    near[1::2] = 0.7 * near[::2] + 0.3 * near[1::2]
    mixed = SOURCES[np.arange(PEOPLE) * 13 % PEOPLE]
    of = table(anonymized=turned(near, PEOPLE // 2), rehearsal=mixed, recovered=near, grey=np.ones((PEOPLE, 2)))
    of.vectors["eye"][:PEOPLE] = near
    told = figures(known(of, COUPLES))
    same, other = told["anonymized.same_pseudonym.eye"], told["anonymized.other_pseudonym.eye"]
    assert (same.estimate.value, same.estimate.n) == (1, PEOPLE / 2), "a pair of two pictures counts once"
    assert other.estimate.value < 0.1 and other.estimate.n == PEOPLE and same.chance == other.estimate.value
    assert told["rehearsal.same_pseudonym.eye"].estimate.value == 0, "two faces for each person"
    assert told["grey.other_pseudonym.eye"].estimate.value == 1, "all alike"
    assert not any("recovered" in key and "pseudonym" in key for key in told)
    assert not any("pseudonym" in key for key in figures(of)), "nobody is said to be there twice"


def test_a_face_beside_others_in_a_picture_of_somebody_is_neither_theirs_nor_a_strangers() -> None:
    together = np.arange(PEOPLE) >= 2  # the first picture of two is one of several faces
    of = known(table(recovered=SOURCES), COUPLES, together)
    assert len(stranger_distances(of, "eye")) == PEOPLE * (PEOPLE - 2)
    told = figures(of)
    assert told[f"{SOURCE}.other_photo_rank1.eye"].estimate.n == PEOPLE - 2
    assert told["recovered.rank1.eye"].chance == pytest.approx((2 / (PEOPLE - 1) + (PEOPLE - 2) * 2 / PEOPLE) / PEOPLE)


def test_of_one_person_alone_nothing_is_told_of_strangers() -> None:
    told = figures(known(table(recovered=SOURCES), np.zeros(PEOPLE)))
    assert told["recovered.rank1.eye"].estimate.value == 1 == told["recovered.rank1.eye"].chance
    assert told["recovered.cosine.eye"].to_dict()["chance"] is None
    assert not {"recovered.linkability.eye", "recovered.tar_far_1.eye"} & told.keys()
    assert told["recovered.eer.eye"].to_dict()["value"] is None


def test_links_are_held_against_other_people_alone() -> None:
    """Of two people: half of what is drawn at first is of the same one."""
    half = np.arange(PEOPLE) * 2 // PEOPLE
    places = np.stack([half, np.zeros(PEOPLE)], 1)
    told = figures(known(table(recovered=places), half))["recovered.linkability.eye"]
    of = table(recovered=places)
    of.vectors["eye"][:PEOPLE] = places
    clear = figures(known(of, half))["recovered.linkability.eye"]
    assert clear.estimate.value == 1 > told.estimate.value
    assert figures(of)["recovered.linkability.eye"].estimate.value < 0.7


def test_people_of_other_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="people of 3 faces, and 80 faces"):
        replace(table(anonymized=SOURCES), people=People.unknown(3))


def test_what_one_part_does_not_know_is_not_known_of_its_faces_alone() -> None:
    """As where a recognizer sees nobody in one block of pictures."""
    whole = table(anonymized=SOURCES)
    first, second = (whole.rows(np.flatnonzero(whole.face % 2 == at)) for at in (0, 1))
    values = {name: column for name, column in second.values.items() if name != "psnr_face"}
    joined = FaceTable.joined([first, replace(second, values=values, vectors={})]).of("anonymized")
    assert np.array_equal(joined.tone, whole.of("anonymized").tone)
    known = joined.face % 2 == 0
    assert np.array_equal(~np.isnan(joined.values["psnr_face"]), known) and (joined.values["found"] == 0.5).all()
    np.testing.assert_array_equal(joined.vectors["eye"][known], SOURCES[::2])
    assert np.isnan(joined.vectors["eye"][~known]).all()
