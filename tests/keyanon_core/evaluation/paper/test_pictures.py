import numpy as np
import pytest
import torch
from PIL import Image

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.paper.pictures import celeba_view, jpeg_copy, lfw_view
from keyanon_core.evaluation.paper.versions import QUALITIES


def coordinates(side: int) -> np.ndarray:
    """A picture (side, side, 3) whose red says the column and whose green the row, from 0 to 255."""
    ramp = np.rint(np.arange(side) * 255 / (side - 1)).astype(np.uint8)
    return np.stack([*np.broadcast_arrays(ramp, ramp[:, None]), np.full((side, side), 7, np.uint8)], -1)


def test_a_view_of_lfw_is_the_middle_200_of_256():
    view = lfw_view(coordinates(250))
    assert view.shape == (256, 256, 3) and view.dtype == np.uint8
    at_256 = 28 + (np.arange(256) + 0.5) * 200 / 256 - 0.5  # of each column of the view, in the picture of 256 px
    expected = ((at_256 + 0.5) * 250 / 256 - 0.5) * 255 / 249
    wrong = view.astype(np.float64) - np.stack(
        [*np.broadcast_arrays(expected, expected[:, None]), 7 + 0 * view[..., 0]], -1
    )
    assert np.abs(wrong).max() <= 1.5, "rounded to 8 bits three times"
    assert np.abs(wrong.mean((0, 1))).max() < 0.05


def test_a_view_of_celeba_is_the_whole_picture_averaged():
    picture = np.zeros((1024, 1024, 3), np.uint8)
    picture[::2, ::2] = 200  # one in four, which a filter without antialiasing would take for all or none
    assert np.abs(celeba_view(picture).astype(int)[2:-2, 2:-2] - 50).max() <= 1
    assert np.array_equal(celeba_view(coordinates(256)), coordinates(256))


@pytest.mark.parametrize(
    ("view", "shape"),
    [(lfw_view, (256, 256)), (lfw_view, (250, 249)), (celeba_view, (1024, 1023)), (celeba_view, (255, 255))],
)
def test_pictures_that_would_be_cut_otherwise_are_refused(view, shape):
    with pytest.raises(PictureError, match=f"{shape[1]} x {shape[0]} px") as error:
        view(np.zeros((*shape, 3), np.uint8))
    assert error.value.reason == "other_size"


def test_views_and_jpeg_copies_are_bit_for_bit_torchvisions(astronaut):
    transforms = pytest.importorskip("torchvision.transforms.v2")
    picture = Image.fromarray(astronaut)
    assert np.array_equal(celeba_view(astronaut), transforms.Resize((256, 256))(picture))
    small = picture.resize((250, 250))
    steps = [transforms.Resize((256, 256)), transforms.CenterCrop((200, 200)), transforms.Resize((256, 256))]
    assert np.array_equal(lfw_view(np.array(small)), transforms.Compose(steps)(small))
    view = celeba_view(astronaut)
    for quality in QUALITIES:
        copy = transforms.JPEG(quality)(torch.from_numpy(view).permute(2, 0, 1)).permute(1, 2, 0)
        assert np.array_equal(jpeg_copy(view, quality), copy)
