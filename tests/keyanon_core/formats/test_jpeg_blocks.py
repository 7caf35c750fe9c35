"""What is kept of a JPEG and what is not, looked at through jpeglib's own reader and Pillow's decoder."""

import tempfile
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.jpeg_header import CoefficientsError
from keyanon_core.formats.jpeg_source import JpegSource
from keyanon_core.formats.opening import open_source
from keyanon_core.formats.published import Published
from keyanon_core.imaging import decode_picture
from tests.keyanon_core.formats.pictures import as_file, decoded, exif, opened, scene

MAX_PIXELS = 10**7
SAMPLINGS = {
    "4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4), "grey": (1, 1)
}  # fmt: skip  # rows and columns that a chroma sample stands for
Bits = npt.NDArray[np.bool_]
Coefficients = npt.NDArray[np.int16]


def coefficients(encoded: bytes) -> list[Coefficients]:
    """(rows, columns, 8, 8) of each component, by jpeglib's public reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        path.write_bytes(encoded)
        read = jpeglib.read_dct(str(path))
        return [np.array(part) for part in (read.Y, read.Cb, read.Cr) if part is not None]


def tables(encoded: bytes) -> list[list[int]]:
    """The quantization table of each component, as Pillow reads it."""
    picture = opened(encoded)
    return [list(picture.quantization[layer[3]]) for layer in picture.layer]  # type: ignore[attr-defined]


def sampled(pixels: npt.NDArray[np.uint8], sampling: str, quality: int = 90, **options: Any) -> bytes:
    """A JPEG of these pixels, by Pillow, or by jpeglib where Pillow does not write that sampling; that takes no options."""
    if sampling == "grey":
        return as_file(pixels, mode="L", quality=quality, **options)
    if sampling not in ("4:4:0", "4:1:1"):
        return as_file(pixels, subsampling=sampling, quality=quality, **options)
    with tempfile.TemporaryDirectory() as folder:
        picture = jpeglib.from_spatial(pixels)
        picture.samp_factor = sampling
        picture.write_spatial(f"{folder}/picture.jpg", qt=quality)
        return (Path(folder) / "picture.jpg").read_bytes()


def publish(encoded: bytes, result: npt.NDArray[np.uint8], masks: list[PictureMask]) -> Published:
    source = open_source(encoded, "same", 95, MAX_PIXELS)
    assert isinstance(source, JpegSource)
    return source._by_blocks(result, masks)


def steps(sampling: str, component: int) -> tuple[int, int]:
    return SAMPLINGS[sampling] if component else (1, 1)


def touched(masked: Bits, shape: tuple[int, ...], step: tuple[int, int]) -> Bits:
    """Blocks whose area holds a masked pixel, pixel by pixel."""
    hit = np.zeros(shape[:2], np.bool_)
    for y, x in zip(*np.nonzero(masked), strict=True):
        hit[y // (8 * step[0]), x // (8 * step[1])] = True
    return hit


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, str, Bits, int]:
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    sampling = draw(st.sampled_from(list(SAMPLINGS)))
    options: dict[str, Any] = {"quality": draw(st.sampled_from([20, 60, 92, 100]))}
    if sampling not in ("4:4:0", "4:1:1"):
        options |= {"progressive": draw(st.booleans()), "restart_marker_blocks": draw(st.integers(0, 5))}
    masked = np.zeros((height, width), np.bool_)
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        masked[y0:y1, x0:x1] = True
        if draw(st.booleans()):
            masked[y0:y1, x0:x1] &= np.random.default_rng(draw(st.integers(0, 9))).random((y1 - y0, x1 - x0)) < 0.3
    seed = draw(st.integers(0, 99))
    return sampled(scene(width, height, seed), sampling, **options), sampling, masked, seed


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_untouched_blocks_keep_their_coefficients_and_touched_ones_are_the_results(
    case: tuple[bytes, str, Bits, int],
) -> None:
    encoded, sampling, masked, seed = case
    source = decode_picture(encoded)
    result = source.copy()
    result[masked] = scene(*source.shape[1::-1], seed + 100)[masked]
    if sampling == "grey":
        result = np.array(Image.fromarray(result).convert("L").convert("RGB"))
    published = JpegSource(source, encoded, 1, 95)
    try:
        made = published._by_blocks(result, _masks(masked)).encoded
    except CoefficientsError as error:
        # coarse tables may be too coarse for noise: then it is encoded anew as a whole
        assert "too coarse" in str(error)
        return
    before, after = coefficients(encoded), coefficients(made)
    assert len(before) == len(after) == (1 if sampling == "grey" else 3)
    assert tables(made) == tables(encoded)
    for component, (old, new) in enumerate(zip(before, after, strict=True)):
        hit = touched(masked, old.shape, steps(sampling, component))
        assert old.shape == new.shape and np.array_equal(old[~hit], new[~hit])


def _masks(masked: Bits) -> list[PictureMask]:
    """The masked pixels as two disjoint masks whose windows overlap."""
    half = masked.copy()
    half[::2] = False
    return [mask for mask in (PictureMask.from_full(half), PictureMask.from_full(masked & ~half)) if mask.count]


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
def test_nothing_of_masked_pixels_gets_into_the_result(sampling: str) -> None:
    """Two sources that differ in the coefficients under the mask alone give the same file, bit for bit."""
    pixels = scene(83, 61, 1)
    masked = np.zeros((61, 83), np.bool_)
    masked[16:48, 32:64] = masked[32:61, 64:83] = True  # whole blocks of every component, some cut by the edge
    other = pixels.copy()
    other[masked] = scene(83, 61, 2)[masked]
    one, two = (sampled(p, sampling, quality=80) for p in (pixels, other))
    for old, new in zip(coefficients(one), coefficients(two), strict=True):
        assert not np.array_equal(old, new)
    result = decode_picture(one)
    result[masked] = scene(83, 61, 3)[masked]
    masks = [PictureMask.from_full(masked)]
    made = [JpegSource(decode_picture(e), e, 1, 95)._by_blocks(result, masks).encoded for e in (one, two)]
    assert made[0] == made[1]


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
def test_masks_that_share_blocks_do_not_bring_the_source_back_in_each_other(sampling: str) -> None:
    encoded = sampled(scene(80, 64, 7, noise=0), sampling, quality=95)
    masked = np.zeros((64, 80), np.bool_)
    masked[10:50, 13:61] = True
    result = decode_picture(encoded)
    result[masked] = 255 - result[masked]
    made = publish(encoded, result, _masks(masked))
    assert np.abs(made.shown[13:47, 18:56].astype(int) - result[13:47, 18:56]).mean() < 4


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
@pytest.mark.parametrize("size", [(64, 48), (61, 43), (33, 17)])
def test_new_blocks_are_what_libjpeg_makes_of_the_same_pixels(sampling: str, size: tuple[int, int]) -> None:
    encoded = sampled(scene(*size, 4), sampling, quality=90)
    result = scene(*size, 5)
    if sampling == "grey":
        result = np.array(Image.fromarray(result).convert("L").convert("RGB"))
    everything = PictureMask.from_full(np.ones(size[::-1], np.bool_))
    made = publish(encoded, result, [everything]).encoded
    wanted = sampled(result, sampling, quality=90)
    for new, libjpegs in zip(coefficients(made), coefficients(wanted), strict=True):
        difference = np.abs(new.astype(int) - libjpegs)
        assert difference.max() <= 1 and (difference != 0).mean() < 0.05
    assert _psnr(made, result) > _psnr(wanted, result) - 0.5


def _psnr(encoded: bytes, wanted: npt.NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(decoded(encoded).astype(float) - wanted).mean()))


def test_a_picture_without_masks_keeps_every_coefficient() -> None:
    encoded = as_file(scene(50, 40), quality=70, subsampling="4:2:0", progressive=True)
    made = publish(encoded, decode_picture(encoded), [])
    assert all(np.array_equal(a, b) for a, b in zip(coefficients(encoded), coefficients(made.encoded), strict=True))
    assert np.array_equal(made.shown, decode_picture(encoded))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "grey"])
def test_masks_are_of_the_upright_picture_and_blocks_of_the_stored_one(orientation: int, sampling: str) -> None:
    encoded = sampled(scene(75, 50, 6), sampling, quality=92, exif=exif(orientation))
    source = decode_picture(encoded)
    result = source.copy()
    bits = np.zeros(source.shape[:2], np.bool_)
    bits[3:20, 10:29] = True
    result[bits] = [200, 30, 60]
    if sampling == "grey":
        result = np.array(Image.fromarray(result).convert("L").convert("RGB"))
    made = publish(encoded, result, [PictureMask.from_full(bits)])
    shown = decode_picture(made.encoded)
    assert np.array_equal(shown, made.shown) and shown.shape == source.shape
    assert np.abs(shown[5:18, 12:27].astype(int) - result[5:18, 12:27]).mean() < 6
    changed = (shown != source).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.max() < 50 and columns.max() < 50, "only blocks that the mask touches"
    turned = np.asarray(Image.fromarray(bits.astype(np.uint8) * 255))
    for old, new, component in zip(coefficients(encoded), coefficients(made.encoded), range(3), strict=False):
        stored = _to_stored(turned > 0, orientation)
        hit = touched(stored, old.shape, steps(sampling, component))
        assert np.array_equal(old[~hit], new[~hit]) and not np.array_equal(old[hit], new[hit])


def _to_stored(upright: Bits, orientation: int) -> Bits:
    """By Pillow: the picture that this orientation would turn into `upright`."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose
    picture = Image.fromarray(upright.astype(np.uint8) * 255)
    turned = picture if orientation == 1 else picture.transpose(Image.Transpose(back[orientation]))
    return np.asarray(turned) > 0
