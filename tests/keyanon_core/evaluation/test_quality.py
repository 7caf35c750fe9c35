"""The measures of a prior's quality give what can be worked out by hand, and see what they should see and nothing else."""

import math

import cv2
import numpy as np
import pytest

from keyanon_core.errors import EvaluationError, FaceModelError
from keyanon_core.evaluation import (
    cheek_typology_angle,
    edge_contrast,
    frechet_distance,
    frechet_distances,
    kernel_distance,
    landmarks_inside,
    nearest,
    quality,
    seam_width,
    skin_tone,
)
from keyanon_core.faces import Face, PictureMask
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.imaging import decode_picture, encode_picture

WIDTH = 4  # px


def with_moments(mean, covariance, rows=40):
    """Rows whose mean and covariance (of n - 1) are exactly these."""
    made = np.random.default_rng(1).standard_normal((rows, len(mean)))
    made -= made.mean(0)
    made = made @ np.linalg.inv(np.linalg.cholesky(np.cov(made, rowvar=False)).T)
    return made @ np.linalg.cholesky(np.asarray(covariance, float)).T + mean


def rotated(variances, degrees):
    turn = np.array([[c := math.cos(math.radians(degrees)), -(s := math.sin(math.radians(degrees)))], [s, c]])
    return turn @ np.diag(variances) @ turn.T


def disc(shape=(120, 140), centre=(70, 60), radius=35):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(x - centre[0], y - centre[1]) <= radius


def grey(value, shape=(120, 140)):
    return np.full((*shape, 3), value, np.uint8)


@pytest.fixture(scope="module")
def face(models, astronaut):
    (found,) = models.detector.detect(astronaut)
    return found


@pytest.fixture(scope="module")
def mask(models, astronaut, face):
    return models.parser.mask(astronaut, face, frozenset({"skin"}))


def tinted(pixels, mask, change):
    """The picture with a number added inside the mask, as a bad paste would."""
    bits = mask.full(pixels.shape)[..., None]
    return np.clip(pixels + bits * np.array(change), 0, 255).astype(np.uint8)


def test_frechet_distance_of_gaussians_that_share_their_axes():
    # sum of (sqrt(a) - sqrt(b))^2 over the axes, and the means' distance: (2 - 1)^2 + (3 - 4)^2 + (3^2 + 4^2)
    first = with_moments([0, 0], rotated([4, 9], 30))
    second = with_moments([3, 4], rotated([1, 16], 30))
    assert frechet_distance(first, second) == pytest.approx(27, rel=1e-9)
    assert frechet_distance(first, first + np.array([3, 4])) == pytest.approx(25, rel=1e-9)


def test_frechet_distance_of_gaussians_whose_axes_differ():
    # in the plane, tr (A^1/2 B A^1/2)^1/2 = sqrt(tr AB + 2 sqrt(det AB)), by the matrix's two eigenvalues
    a, b = rotated([4, 9], 10), rotated([1, 25], 75)
    expected = np.trace(a + b) - 2 * math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    first, second = with_moments([0, 0], a), with_moments([0, 0], b)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_frechet_distances_of_halves_cross_over_so_that_no_result_meets_its_source():
    rows, apart = np.random.default_rng(2).standard_normal((20, 3)), np.array([3, 0, 4])
    sources = np.empty((40, 3))
    sources[::2], sources[1::2] = rows, rows + apart
    copied = frechet_distances(sources.copy(), sources)
    assert copied.whole == pytest.approx(0, abs=1e-6)
    assert (copied.halves, copied.floor) == pytest.approx((25, 25))
    sources[1::2] = rows
    moved = frechet_distances(sources + 2 * apart, sources)
    assert (moved.whole, moved.halves) == pytest.approx((100, 100)) and moved.floor == pytest.approx(0, abs=1e-6)
    for results in (sources[:3], sources[:, :2]):
        with pytest.raises(ValueError, match="the source of each"):
            frechet_distances(results, sources[:3])


def test_bands_along_an_edge_grow_with_the_face_from_two_pixels_on():
    widths = [seam_width(PictureMask.from_full(np.ones((side, side), bool))) for side in (1, 80, 100, 400)]
    assert widths == [2, 2, 3, 12]


def test_frechet_distance_is_finite_with_fewer_rows_than_dimensions():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((6, 192)).astype(np.float32)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(rows, rows + np.float32(0.5)) == pytest.approx(192 / 4, rel=1e-4)
    assert frechet_distance(rows, rng.permutation(rows)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_frechet_distance_refuses_sets_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(*(np.zeros(shape) for shape in shapes))


def test_a_photograph_has_no_seam_against_itself(astronaut, mask):
    same = edge_contrast(astronaut, mask, WIDTH)
    assert same == edge_contrast(astronaut.copy(), mask, WIDTH)
    assert same.colour > 0 and same.gradient > 0 and same.step > 0


@pytest.mark.parametrize("change", [(60, 0, -30), (-60, -60, -60)])
def test_a_tinted_paste_is_a_seam(astronaut, mask, change):
    source = edge_contrast(astronaut, mask, WIDTH)
    made = edge_contrast(tinted(astronaut, mask, change), mask, WIDTH)
    assert made.colour > 1.2 * source.colour
    assert made.gradient > 1.2 * source.gradient
    assert made.step > 1.5 * source.step


def test_what_happens_away_from_the_edge_is_no_seam(astronaut, mask):
    bits = mask.full(astronaut.shape)
    core = cv2.erode(bits.astype(np.uint8), np.ones((2 * WIDTH + 3, 2 * WIDTH + 3), np.uint8)) > 0
    changed = np.where(core[..., None], 0, astronaut).astype(np.uint8)
    assert (changed != astronaut).any()
    assert edge_contrast(changed, mask, WIDTH) == edge_contrast(astronaut, mask, WIDTH)


def test_a_clean_cut_is_measured_in_cielab():
    bits = disc()
    pixels = np.where(bits[..., None], grey(200), grey(100)).astype(np.uint8)
    lightness = [
        float(cv2.cvtColor(np.full((1, 1, 3), v / 255, np.float32), cv2.COLOR_RGB2LAB)[0, 0, 0]) for v in (200, 100)
    ]
    contrast = edge_contrast(pixels, bits, WIDTH)
    assert contrast.colour == pytest.approx(lightness[0] - lightness[1], rel=1e-3)
    assert contrast.step == pytest.approx(lightness[0] - lightness[1], rel=1e-3)
    assert 0.4 < contrast.gradient / contrast.step < 0.8


def test_light_from_one_side_is_no_seam():
    ramp = np.broadcast_to(np.linspace(80, 160, 140)[None, :, None], (120, 140, 3)).astype(np.uint8)
    bits = disc()
    darker = np.where(bits[..., None], ramp - 20, ramp).astype(np.uint8)
    # both bands differ by a few px of the slope, not by the slope across the face
    assert edge_contrast(ramp, bits, WIDTH).colour < 2
    assert edge_contrast(darker, bits, WIDTH).colour > 6
    opposed = ramp.copy()
    opposed[bits] = ramp[:, ::-1][bits]  # the same mean colour inside as out, lit from the other side
    assert abs(float(opposed[bits].mean()) - float(ramp[bits].mean())) < 1
    assert edge_contrast(opposed, bits, WIDTH).colour > 6


def test_the_pictures_border_is_no_edge():
    left = np.zeros((120, 140), np.bool_)
    left[:, :70] = True
    pixels = np.where(left[..., None], grey(180), grey(90)).astype(np.uint8)
    pixels[:, 0] = 0  # a black border on the mask's far side
    assert edge_contrast(pixels, left, WIDTH).step == edge_contrast(pixels[:, 20:], left[:, 20:], WIDTH).step
    whole = edge_contrast(pixels, np.ones((120, 140), np.bool_), WIDTH)
    assert math.isnan(whole.colour) and math.isnan(whole.gradient) and math.isnan(whole.step)
    assert math.isnan(edge_contrast(pixels, np.zeros((120, 140), np.bool_), WIDTH).colour)


def test_both_forms_of_a_mask_give_the_same(astronaut, mask):
    assert edge_contrast(astronaut, mask, WIDTH) == edge_contrast(astronaut, mask.full(astronaut.shape), WIDTH)


def test_masks_and_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        edge_contrast(grey(9), np.ones((5, 5), np.bool_), WIDTH)
    with pytest.raises(FaceModelError, match="reaches beyond"):
        edge_contrast(grey(9), PictureMask.from_full(np.ones((500, 5), np.bool_)), WIDTH)
    with pytest.raises(ValueError, match="at least 1 px"):
        edge_contrast(grey(9), disc(), 0)


@pytest.mark.parametrize("limit", [quality.MAX_DISTANCES, 100])  # 100 makes pieces of a single query
def test_nearest_finds_the_planted_row(monkeypatch, limit):
    monkeypatch.setattr(quality, "MAX_DISTANCES", limit)
    rng = np.random.default_rng(3)
    references = rng.standard_normal((90, 128)).astype(np.float32) + 50  # far from zero: squares lose small distances
    planted = np.array([41, 0, 89, 7, 7])
    queries = references[planted].copy()
    queries[1, 5] += np.float32(0.125)
    index, distance = nearest(queries, references)
    assert index.tolist() == planted.tolist()
    np.testing.assert_allclose(distance, [0, 0.125, 0, 0, 0], atol=1e-6)
    strangers = rng.standard_normal((3, 128))
    every = np.linalg.norm(strangers[:, None] - references[None], axis=2)
    index, distance = nearest(strangers, references)
    assert index.tolist() == every.argmin(1).tolist()
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-4)


def test_nearest_agrees_with_all_distances():
    rng = np.random.default_rng(4)
    queries, references = rng.random((20, 6)), rng.random((33, 6))
    every = np.linalg.norm(queries[:, None] - references[None], axis=2)
    index, distance = nearest(queries, references)
    np.testing.assert_array_equal(index, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1))
    assert nearest(np.zeros((0, 6)), references)[0].shape == (0,)
    with pytest.raises(ValueError, match="m >= 1"):
        nearest(queries, references[:0])
    with pytest.raises(ValueError, match="m >= 1"):
        nearest(queries, references[:, :5])


def test_texture_features_see_blur_more_than_the_identity_does(models, astronaut, hopper):
    recognizer = models.recognizer
    views = [(pixels, models.detector.detect(pixels)[0]) for pixels in (astronaut, hopper)]
    features = recognizer.features(views)
    assert features.shape == (2, 192) and features.dtype == np.float32
    assert (features >= 0).all() and (features[:, :64].max(1) > 0).all() and (features[:, 64:].max(1) > 0).all()
    np.testing.assert_allclose(recognizer.features(views[1:])[0], features[1], atol=1e-4)
    assert recognizer.features([]).shape == (0, 192)

    (pixels, face), blurred = views[0], cv2.GaussianBlur(views[0][0], (0, 0), 3)
    pixels_again = decode_picture(encode_picture(pixels, "jpeg", 95))
    changed = recognizer.features([(blurred, face), (pixels_again, face)])
    between_people = np.linalg.norm(features[0] - features[1])
    by_blur, by_jpeg = np.linalg.norm(changed - features[0], axis=1)
    assert by_blur > 5 * by_jpeg
    identities = recognizer.embed([*views, (blurred, face)])
    identity_by_blur = np.linalg.norm(identities[2] - identities[0])
    assert by_blur / between_people > identity_by_blur / np.linalg.norm(identities[0] - identities[1])


def test_features_are_the_stages_own_means(models, astronaut):
    """Against hooks on the whole network, which takes another path through it."""
    network = models.recognizer._network
    seen = {}
    hooks = [
        block.register_forward_hook(lambda _, __, y, i=i: seen.update({i: y})) for i, block in enumerate(network.blocks)
    ]
    chips = np.ascontiguousarray(astronaut[None, 20:170, 150:300])
    network.embed(chips)
    expected = np.concatenate([seen[6].mean((2, 3)).numpy(), seen[9].mean((2, 3)).numpy()], 1)
    for hook in hooks:
        hook.remove()
    assert seen[6].shape[1] == 64 and seen[7].shape[1] == 128 and seen[9].shape[1] == 128 and seen[10].shape[1] == 256
    np.testing.assert_allclose(network.features(chips), expected, atol=1e-5)


def test_the_typology_angle_follows_the_cheeks(astronaut, face):
    angle = cheek_typology_angle(astronaut, face.landmarks)
    assert skin_tone(angle) in ("light", "intermediate")
    darker = (astronaut * 0.45).astype(np.uint8)
    assert cheek_typology_angle(darker, face.landmarks) < angle - 20
    without_colour = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert skin_tone(cheek_typology_angle(without_colour, face.landmarks)) == "grey"
    elsewhere = Face(face.box, face.landmarks + 5000, 1.0)
    assert math.isnan(cheek_typology_angle(astronaut, elsewhere.landmarks))


def test_the_typology_angle_is_chardons():
    # flat skin of L = 50 + 15 tan(30 degrees), b = 15
    lab = np.broadcast_to(np.float32([50 + 15 * math.tan(math.pi / 6), 10, 15]), (100, 100, 3))
    pixels = np.rint(cv2.cvtColor(np.ascontiguousarray(lab), cv2.COLOR_LAB2RGB) * 255).astype(np.uint8)
    landmarks = np.array([[35, 40], [65, 40], [50, 55], [38, 70], [62, 70]], np.float64)
    assert cheek_typology_angle(pixels, landmarks) == pytest.approx(30, abs=1.5)
    assert [skin_tone(angle) for angle in (60, 42, 40, 11, 9, -40)] == ["light"] * 2 + ["intermediate"] * 2 + [
        "dark"
    ] * 2


def test_landmarks_inside_a_mask():
    face = Face((0, 0, 100, 100), UPRIGHT_TEMPLATE * 100, 1.0)
    full = np.zeros((100, 100), bool)
    full[:70] = True
    assert landmarks_inside(face, PictureMask.from_full(full), full.shape) == pytest.approx(3 / 5)
    assert landmarks_inside(face, PictureMask.from_full(~full[::-1]), full.shape) == 0.0
    beyond = Face(face.box, face.landmarks - [0, 50], 1.0)
    assert landmarks_inside(beyond, PictureMask.from_full(full), full.shape) == 1.0, (
        "what lies beyond the border counts at the border"
    )


def cubic(a, b):
    return (a @ b / len(a) + 1) ** 3


def test_kernel_distance_is_the_unbiased_discrepancy_worked_out_term_by_term(monkeypatch):
    random = np.random.default_rng(3)
    first, second = random.normal(size=(31, 5)), 1.5 * random.normal(size=(24, 5)) + 0.3
    inside = [
        np.mean([cubic(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j])
        for one in (first, second)
    ]
    across = np.mean([cubic(x, y) for x in first for y in second])
    found = kernel_distance(first, second)
    assert found.value == pytest.approx(sum(inside) - 2 * across, rel=1e-9) and found.n == 24
    assert kernel_distance(second, first).value == pytest.approx(found.value)
    monkeypatch.setattr(quality, "MAX_DISTANCES", 4 * 31)
    a_few_rows_at_once = kernel_distance(first, second)
    assert (a_few_rows_at_once.value, a_few_rows_at_once.low) == pytest.approx((found.value, found.low), rel=1e-9)
    pairs = np.mean([cubic(x, y) for i, x in enumerate(first) for j, y in enumerate(first + 1) if i != j])
    assert kernel_distance(first, first, paired=True).value == pytest.approx(0, abs=1e-12)
    moved = np.mean([cubic(x, y) for i, x in enumerate(first + 1) for j, y in enumerate(first + 1) if i != j])
    assert kernel_distance(first, first + 1, paired=True).value == pytest.approx(inside[0] + moved - 2 * pairs)


def test_kernel_distance_of_sets_of_one_kind_is_at_zero_however_few_and_its_interval_says_so():
    random = np.random.default_rng(5)
    few, covered = [], []
    for _ in range(60):
        found = kernel_distance(random.normal(size=(30, 8)), random.normal(size=(40, 8)))
        few.append(found.value)
        covered.append(found.low <= 0 <= found.high)
    spread = np.std(few)
    assert abs(np.mean(few)) < 3 * spread / math.sqrt(60) and min(few) < 0
    assert np.mean(covered) >= 0.9
    apart = [kernel_distance(random.normal(size=(60, 8)), random.normal(size=(60, 8)) + 0.7) for _ in range(30)]
    truth = np.mean([one.value for one in apart])
    assert all(one.low > 0 for one in apart) and np.mean([one.low <= truth <= one.high for one in apart]) >= 0.9


def test_pairs_that_are_alike_do_not_bring_two_sets_together():
    """A face and its recovered face: the rows are nearly equal, and the sets are of one kind all the same."""
    random = np.random.default_rng(6)
    plain, paired = [], []
    for _ in range(30):
        first = 2 * random.normal(size=(20, 4))
        second = first + 0.1 * random.normal(size=(20, 4))
        plain.append(kernel_distance(first, second).value)
        paired.append(kernel_distance(first, second, paired=True).value)
    assert np.mean(plain) < -1 < -0.1 < np.mean(paired) < 0.1


def test_kernel_distance_of_too_few_or_of_what_does_not_fit():
    rows = np.random.default_rng(0).normal(size=(6, 3))
    assert not kernel_distance(rows[:3], rows).bounded and kernel_distance(rows[:4], rows).bounded
    with pytest.raises(ValueError, match="two rows or more"):
        kernel_distance(rows[:1], rows)
    with pytest.raises(ValueError, match="two rows or more"):
        kernel_distance(rows, rows[:, :2])
    with pytest.raises(ValueError, match="of one size"):
        kernel_distance(rows[:5], rows, paired=True)
    with pytest.raises(EvaluationError):
        kernel_distance(rows, np.where(rows > 0, np.nan, rows))
