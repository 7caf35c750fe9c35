"""The paper's figures from tables that are written down by hand."""

import numpy as np
import pytest

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.metrics import BY_NAME
from keyanon_core.evaluation.paper.tables import PUBLISHED, paper_figures, strangers
from keyanon_core.evaluation.paper.versions import PAPER, QUALITIES, recovered_of
from keyanon_core.evaluation.people import People
from keyanon_core.evaluation.quality import frechet_distance
from keyanon_core.evaluation.summary import FaceTable
from keyanon_core.evaluation.verification import MAX_DISTANCES, threshold_at_far

PEOPLE = 40  # of whom 40 * 39 pairs are strangers: the FAR of 0.1 % is shown by one of them


def on_circle(degrees: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1)


SOURCES = 9.0 * np.arange(PEOPLE)  # degrees
OTHERS = SOURCES + np.repeat([0.5, 2.0, 8.0], [20, 10, 10])  # ten of them nearer to the next person than to their own


def table(versions: dict[str, np.ndarray], **values: np.ndarray) -> FaceTable:
    """versions: degrees of each face, NaN where the recognizer saw none. values: of the last version's."""
    count = len(versions) * PEOPLE
    rows = np.random.default_rng(3).permutation(count)  # no order is promised
    columns = {name: np.concatenate([np.full(count - PEOPLE, np.nan), column]) for name, column in values.items()}
    return FaceTable(
        np.tile(np.arange(PEOPLE), len(versions)),
        np.repeat(np.array(list(versions)), PEOPLE),
        np.full(count, ""),
        columns,
        {"eye": np.concatenate([on_circle(degrees) for degrees in versions.values()]).astype(np.float32) * 3},
    ).rows(rows)


def figures(of: FaceTable, data_set="lfw", person=None) -> dict:
    person = None if person is None else person[of.face]
    found = paper_figures(of, np.zeros(len(of.face), np.int64), data_set, person)
    assert {figure.metric for figure in found} <= set(BY_NAME)
    return {figure.key: figure for figure in found}


def test_lfw_is_verified_against_the_other_picture_at_the_threshold_of_clean_pairs() -> None:
    back = np.where(np.arange(PEOPLE) < 4, np.nan, SOURCES + 180.0 * (np.arange(PEOPLE) >= 20))
    found = figures(table({SOURCE: SOURCES, "other": OTHERS, "paper": SOURCES + 180, "paper-recovered": back}))
    # A source is 1 degree from the other picture of the one before, ten times; one pair in a thousand is one of these.
    threshold = found["clean.threshold_far_01.eye"].estimate
    assert threshold.value == pytest.approx(np.cos(np.radians(1))) and threshold.n == PEOPLE and not threshold.bounded
    assert found["clean.other_photo_tar_far_01.eye"].estimate.value == 20 / 40
    assert found["clean.cosine.eye"].estimate.value == pytest.approx(np.cos(np.radians(OTHERS - SOURCES)).mean())
    assert found["paper-recovered.other_photo_tar_far_01.eye"].estimate.value == 16 / 40, (
        "who is not seen is not accepted"
    )
    assert found["paper.other_photo_tar_far_01.eye"].estimate.value == 0
    assert found["paper.cosine.eye"].estimate.value == pytest.approx(-1), "of its own source"
    assert found["paper-recovered.cosine.eye"].estimate.n == 36, "of faces that were seen"
    assert found["paper-recovered.cosine.eye"].estimate.value == pytest.approx((16 - 20) / 36)
    assert "paper-recovered.tar_far_01.eye" not in found
    assert found["clean.cosine.eye"].to_dict()["better"] == "neither"
    assert found["paper-recovered.other_photo_tar_far_01.eye"].to_dict()["better"] == "higher"


def test_pairs_of_one_person_are_genuine_whatever_the_list_pairs_and_no_impostors() -> None:
    person = np.where(np.arange(PEOPLE) >= 30, 30 + (np.arange(PEOPLE) - 30) // 10, np.arange(PEOPLE))
    back = np.where(np.arange(PEOPLE) < 6, np.nan, SOURCES)
    found = figures(table({SOURCE: SOURCES, "other": OTHERS, "paper-recovered": back}), person=person)
    # The ten are one person's. Of strangers one pair is at 1 degree, the last of them and the first of all; then ten at 7.
    assert found["clean.threshold_far_01.eye"].estimate.value == pytest.approx(np.cos(np.radians(7)))
    clean = found["clean.other_photo_tar_far_01.eye"].estimate
    assert clean.n == 30 + 10 * 10 and clean.value * clean.n == pytest.approx(30 + 9)
    recovered = found["paper-recovered.other_photo_tar_far_01.eye"].estimate
    assert recovered.n == clean.n and recovered.value * clean.n == pytest.approx(24 + 9), (
        "who is not seen is not accepted"
    )
    unknown = figures(table({SOURCE: SOURCES, "other": OTHERS, "paper-recovered": back}), person=np.full(PEOPLE, -1))
    assert unknown["clean.other_photo_tar_far_01.eye"].estimate.n == PEOPLE


def test_celeba_is_verified_against_its_own_source() -> None:
    shown = SOURCES + np.where(np.arange(PEOPLE) < 10, 8.9, 9.1)
    found = figures(table({SOURCE: SOURCES, "exact": shown}), "celeba-hq")
    assert found["clean.threshold_far_01.eye"].estimate.value == pytest.approx(np.cos(np.radians(9)))
    assert found["exact.tar_far_01.eye"].estimate.value == 10 / PEOPLE
    assert found["exact.tar_far_01.eye"].chance == 0.001
    assert found["exact.cosine.eye"].chance == pytest.approx(-1 / (PEOPLE - 1)), "of directions that add up to nothing"
    assert {key for key in found if key.startswith("clean")} == {"clean.threshold_far_01.eye"}


def test_lfw_without_the_other_pictures_and_too_few_pairs_are_told() -> None:
    with pytest.raises(EvaluationError, match=r"40 pictures of LFW, and 0 other ones.*pairs"):
        figures(table({SOURCE: SOURCES, "paper": SOURCES}))
    few = table({SOURCE: SOURCES, "paper": SOURCES})
    few = few.rows(few.face < 20)  # 380 pairs
    (figure,) = paper_figures(few, np.zeros(40, np.int64), "celeba-hq")
    cosines = np.cos(np.radians(SOURCES[:20, None] - SOURCES[:20]))
    assert figure.metric == "cosine" and figure.chance == pytest.approx((cosines.sum() - 20) / 380)
    alone = few.rows(few.face < 1)
    (only,) = paper_figures(alone, np.zeros(2, np.int64), "celeba-hq")
    assert (only.metric, only.chance, only.estimate.bounded) == ("cosine", None, False)


def test_pictures_are_measured_by_means_and_shares_of_those_known() -> None:
    known = np.where(np.arange(PEOPLE) < 30, np.arange(PEOPLE) / 10, np.nan)
    values = {
        "psnr_picture": 10 * known,
        "mask_iou": known,
        "detected": np.where(known < 2, 1.0, known * 0),
        "solved": known * 0,
    }
    found = figures(table({SOURCE: SOURCES, "exact-recovered": SOURCES}, **values), "celeba-hq")
    assert found["exact-recovered.psnr_picture"].estimate.value == pytest.approx(14.5)
    assert found["exact-recovered.mask_iou"].estimate.n == 30
    assert found["exact-recovered.detected"].estimate.value == 20 / 30
    assert found["exact-recovered.solved"].estimate.value == 0
    assert "exact-recovered.mae_picture" not in found and "exact-recovered.ssim_picture" not in found


def test_fid_is_the_mean_over_parts_and_called_so_of_inceptions_features_alone() -> None:
    rng = np.random.default_rng(1)
    of = table({SOURCE: SOURCES, "paper": SOURCES, "exact": SOURCES})
    features = rng.normal(size=(len(of.face), 3)).astype(np.float32) + (of.version == "paper")[:, None]
    features[of.version == "exact"] = np.nan
    part = np.repeat([0, 7, 8, 9], [12, 25, 2, 1])[of.face]  # the last two of two pictures and of one
    named = {"features:inception": features, "features:means": features}
    of = FaceTable(of.face, of.version, of.tone, of.values, {**of.vectors, **named})
    found = {figure.key: figure for figure in paper_figures(of, part, "celeba-hq")}
    expected = []
    for one in (0, 7, 8):
        rows = [np.flatnonzero((of.version == name) & (part == one)) for name in ("paper", SOURCE)]
        expected.append(frechet_distance(*(features[at[np.argsort(of.face[at])]] for at in rows)))
    fid = found["paper.picture_fid"].estimate
    assert fid.value == pytest.approx(np.mean(expected)) and fid.n == 3 and expected[0] != pytest.approx(expected[1])
    assert found["paper.picture_distance.means"].estimate == fid
    assert not any("exact.picture" in key for key in found)
    whole = {figure.key: figure for figure in paper_figures(of, 0 * part, "celeba-hq")}["paper.picture_fid"].estimate
    assert whole.n == 1 and not whole.bounded and whole.value != pytest.approx(fid.value)


def test_strangers_are_the_same_taken_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 50, 4))
    first[3], second[[5, 9]] = np.nan, np.nan
    person = np.where(np.arange(50) < 20, np.arange(50) // 4, -1)
    monkeypatch.setattr("keyanon_core.evaluation.paper.tables.MAX_DISTANCES", 7 * 48)
    assert MAX_DISTANCES > 7 * 48
    mean, threshold = strangers(first, second, People(person, np.ones(50, np.bool_)), 0.05)
    distances = [
        1 - first[i] @ second[j] / np.linalg.norm(first[i]) / np.linalg.norm(second[j])
        for i in range(50)
        for j in range(50)
        if i != 3 and j not in (5, 9) and i != j and (person[i] != person[j] or person[i] < 0)
    ]
    assert threshold == pytest.approx(threshold_at_far(distances, 0.05))
    assert mean == pytest.approx(1 - np.mean(distances))


def test_published_numbers_stand_beside_figures_that_there_are() -> None:
    told = {(one.version, one.metric, one.recognizer): one for one in PUBLISHED}
    assert len(told) == len(PUBLISHED) and {one.metric for one in PUBLISHED} <= set(BY_NAME)
    assert told["paper-recovered", "other_photo_tar_far_01", "ArcFace R50"].value == 0.7053
    copies = [told[recovered_of(PAPER, q), "other_photo_tar_far_01", "ArcFace R50"].value for q in QUALITIES]
    assert copies == [0.62, 0.52, 0.33, 0.13]
    assert told["paper", "cosine", "FaceNet VGGFace2"].value == 0.0781
    assert all(one.source and 0 <= one.value < 100 for one in PUBLISHED)
