"""What the detecting networks' maps of cells become: boxes and landmarks in px of what was shown."""

import numpy as np
import onnx
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.centerface import CenterFace
from keyanon_core.faces.landmarks import FIVE_IN_BOX, template_in_box
from keyanon_core.faces.onnx_model import CELL, MAX_LOG_SIZE, STRIDE, OnnxModel, peaks
from keyanon_core.faces.scene_network import SceneNetwork

CELLS = (16, 24)  # rows and columns of the maps of a picture of 64 x 96 px
SHOWN = np.zeros((64, 96, 3), np.uint8)


def heat_at(*places):
    """A heatmap (1, rows, columns) of scores at cells (row, column)."""
    heat = np.zeros((1, *CELLS), np.float32)
    for (row, column), score in places:
        heat[0, row, column] = score
    return heat


def network(kind, maps):
    """One of the two networks, answering with these maps."""
    made = kind.__new__(kind)
    made.model = lambda pixels: maps
    return made


def test_center_face_says_height_before_width_and_landmarks_in_shares_of_the_box():
    heat = heat_at(((5, 7), 0.75), ((12, 20), 0.25))
    size, offset, points = (np.zeros((channels, *CELLS), np.float32) for channels in (2, 2, 10))
    size[:, 5, 7] = np.log(10), np.log(6)  # cells: height, width
    offset[:, 5, 7] = 0.25, -0.125  # cells: y, x
    points[:, 5, 7] = np.arange(10) / 10  # y, x in turn
    seen = network(CenterFace, [heat, size, offset, points])(SHOWN, 0.5)
    x, y, width, height = (7 - 0.125 + 0.5) * CELL, (5 + 0.25 + 0.5) * CELL, 24, 40
    np.testing.assert_allclose(seen.boxes, [[x - 12, y - 20, x + 12, y + 20]], rtol=1e-6)
    expected = [[x - 12 + (2 * i + 1) / 10 * width, y - 20 + 2 * i / 10 * height] for i in range(5)]
    np.testing.assert_allclose(seen.landmarks, [expected], rtol=1e-6)
    assert seen.scores == [0.75] and seen.boxes.dtype == seen.landmarks.dtype == seen.scores.dtype == np.float64


def test_the_scene_network_says_width_before_height_and_landmarks_from_the_centre_in_longer_sides():
    heat, rest = heat_at(((5, 7), 0.75), ((12, 20), 0.5)), np.zeros((14, *CELLS), np.float32)
    rest[:4, 5, 7] = np.log(6), np.log(10), -0.125, 0.25
    shares = (np.arange(10) / 10 - 0.4) * 0.6
    rest[4:, 5, 7] = shares  # x, y in turn
    seen = network(SceneNetwork, [heat, rest])(SHOWN, 0.5)
    x, y = (7 - 0.125 + 0.5) * CELL - 0.5, (5 + 0.25 + 0.5) * CELL - 0.5
    np.testing.assert_allclose(seen.boxes[0], [x - 12, y - 20, x + 12, y + 20], rtol=1e-6)
    np.testing.assert_allclose(seen.landmarks[0], [x, y] + 40 * shares.reshape(5, 2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.landmarks[1], template_in_box(tuple(seen.boxes[1])), atol=1e-5)
    assert seen.scores.tolist() == [0.75, 0.5], "from the lowest score on, that one too"
    assert seen.boxes.dtype == seen.landmarks.dtype == seen.scores.dtype == np.float64


@pytest.mark.parametrize(("extent", "kept"), [(0.03, False), (0.5, False), (0.8, True), (1.2, True), (2.0, False)])
def test_the_scene_network_takes_landmarks_of_another_size_than_the_box_for_an_upright_face_s(extent, kept):
    heat, rest = heat_at(((5, 7), 0.75)), np.zeros((14, *CELLS), np.float32)
    rest[:2, 5, 7] = np.log(10), np.log(10)
    turned = (FIVE_IN_BOX - FIVE_IN_BOX.mean(0))[:, ::-1] * extent
    rest[4:, 5, 7] = turned.ravel()
    (seen,) = (answer := network(SceneNetwork, [heat, rest])(SHOWN, 0.5)).landmarks
    upright = template_in_box(tuple(answer.boxes[0]))
    centre = answer.boxes[0].reshape(2, 2).mean(0)
    np.testing.assert_allclose(seen, centre + 40 * turned if kept else upright, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [CenterFace, SceneNetwork])
def test_a_picture_without_a_face_is_answered_with_nothing(kind):
    channels = (2, 2, 10) if kind is CenterFace else (14,)
    maps = [np.zeros((count, *CELLS), np.float32) for count in (1, *channels)]
    seen = network(kind, maps)(SHOWN, 0.1)
    assert seen.boxes.shape == (0, 4) and seen.landmarks.shape == (0, 5, 2) and seen.scores.shape == (0,)


@pytest.mark.parametrize("kind", [CenterFace, SceneNetwork])
def test_an_absurd_size_stays_a_number(kind):
    channels = (2, 2, 10) if kind is CenterFace else (14,)
    maps = [heat_at(((5, 7), 0.75)), *(np.full((count, *CELLS), 1000.0, np.float32) for count in channels)]
    (box,) = network(kind, maps)(SHOWN, 0.5).boxes
    np.testing.assert_allclose(box[2:] - box[:2], np.exp(MAX_LOG_SIZE) * CELL)


def test_a_peak_is_a_cell_that_no_neighbour_exceeds_at_the_borders_too():
    heat = heat_at(((0, 0), 0.5), ((0, 1), 0.4), ((8, 8), 0.3), ((9, 9), 0.29), ((15, 23), 0.1), ((4, 20), 0.09))
    rows, columns = peaks(heat, 0.1)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (8, 8), (15, 23)]
    two_away = [((10, 12), 0.4), ((12, 10), 0.4), ((12, 12), 0.5), ((12, 14), 0.4), ((14, 12), 0.4)]
    assert len(peaks(heat_at(*two_away), 0.1)[0]) == len(two_away)
    rows, columns = peaks(heat_at(((3, 3), 0.5), ((3, 4), 0.5), ((3, 6), 0.5)), 0.5)
    assert columns.tolist() == [3, 4, 6], "equals do not hide each other"


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_map_of_scores_that_is_not_of_numbers_is_an_error_and_not_a_picture_without_faces(odd):
    with pytest.raises(FaceModelError, match="not a number"):
        peaks(heat_at(((2, 3), odd)), 0.5)


@pytest.fixture
def copying():
    """A model that answers with twice its input, its weight listed among its inputs as some files do."""
    shape = [1, 3, "height", "width"]
    weight = onnx.numpy_helper.from_array(np.array(2.0, np.float32), "twice")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["shown", "twice"], ["doubled"])],
        "copying",
        [value("twice", onnx.TensorProto.FLOAT, []), value("shown", onnx.TensorProto.FLOAT, shape)],
        [value("doubled", onnx.TensorProto.FLOAT, shape)],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return OnnxModel(model, ["doubled"], 2)


@pytest.mark.parametrize("shape", [(1, 1), (32, 64), (33, 31), (5, 70)])
def test_what_is_shown_is_padded_with_black_to_the_stride(copying, shape):
    pixels = np.random.default_rng(0).integers(1, 256, (*shape, 3), dtype=np.uint8)
    (answer,) = copying(pixels)
    height, width = shape
    assert answer.shape == (3, -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
    np.testing.assert_array_equal(answer[:, :height, :width], 2.0 * pixels.transpose(2, 0, 1))
    assert answer.sum() == 2.0 * pixels.sum(dtype=np.int64)


def test_a_listed_weight_is_no_input_and_the_threads_are_those_asked_for(copying):
    assert not copying.session.get_overridable_initializers()
    options = copying.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert [value.name for value in copying.session.get_inputs()] == ["shown"]
