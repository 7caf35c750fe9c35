"""How like its source a picture is, pixel by pixel: over the whole picture, or over a face's pixels.

Pictures are (H, W, 3) uint8 of one size; a mask is (H, W) bool and not empty.
"""

import math

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import EvaluationError
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import Bits

LEVELS = 255.0  # peak to peak of 8 bits
SSIM_WINDOW = 7  # px, scikit-image's default; a smaller picture takes the largest odd window that fits


def peak_signal_to_noise(first: Pixels, second: Pixels, mask: Bits | None = None) -> float:
    """`10 log10(255^2 / mean squared error)` in dB; infinity for equal pixels. Raises ValueError for pictures that do not fit."""
    error = float(np.square(_difference(first, second, mask), dtype=np.int32).mean(dtype=np.float64))
    return math.inf if error == 0 else 10 * math.log10(LEVELS**2 / error)


def mean_absolute_error(first: Pixels, second: Pixels, mask: Bits | None = None) -> float:
    """Mean absolute difference with pixels scaled to [-1, 1], as in Labarbarie et al. (2025): 0 to 2. Raises ValueError."""
    return float(np.abs(_difference(first, second, mask)).mean(dtype=np.float64)) * 2 / LEVELS


def structural_similarity(first: Pixels, second: Pixels, mask: Bits | None = None, *, gaussian: bool = False) -> float:
    """Mean of the SSIM map over the pixels, 1 for equal ones: Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing
    13(4), 2004, by scikit-image, mean over channels; uniform window. gaussian: theirs instead, of 11 px and a sigma of 1.5,
    as torchmetrics has it; of pictures of 11 px a side or more. Raises ValueError for pictures that do not fit, EvaluationError
    for one below 3 px a side, and without scikit-image.
    """
    try:
        from skimage.metrics import structural_similarity as of_pictures
    except ImportError as error:
        raise EvaluationError("structural similarity takes scikit-image; install keyanon[evaluation]") from error
    _difference(first, second, mask)
    window = min(SSIM_WINDOW, *first.shape[:2])
    window -= 1 - window % 2
    if window < 3:
        raise EvaluationError(
            f"a picture of {first.shape[1]} x {first.shape[0]} px is too small for structural similarity"
        )
    seen = {"gaussian_weights": True, "use_sample_covariance": False} if gaussian else {"win_size": window}
    value, whole = of_pictures(first, second, channel_axis=2, data_range=LEVELS, full=True, **seen)
    return float(value) if mask is None else float(np.asarray(whole).mean(2)[mask].mean())


def _difference(first: Pixels, second: Pixels, mask: Bits | None) -> npt.NDArray[np.int16]:
    """(n, 3) differences of the pixels of a mask, or of all; whole numbers, for pictures may be large."""
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8 or first.ndim != 3:
        raise ValueError(f"two (H, W, 3) uint8 pictures of one size are needed, got {first.shape} and {second.shape}")
    if mask is not None and (mask.shape != first.shape[:2] or mask.dtype != np.bool_ or not mask.any()):
        raise ValueError(
            f"a mask of {mask.shape} {mask.dtype} that is not empty does not fit pictures of {first.shape}"
        )
    difference = first.astype(np.int16) - second
    return difference.reshape(-1, first.shape[2]) if mask is None else difference[mask]
