"""The two methods behind one pair of functions: `exact` (the default) and `paper` (the reference)."""

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor

from keyanon_core.known_path import KnownPath
from keyanon_core.methods import exact, paper
from keyanon_core.methods.results import Anonymized, Recovered, SolverStep
from keyanon_core.priors import Prior
from keyanon_core.schedule import DEFAULT_STEPS, lambda_grid
from keyanon_core.solver import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE

__all__ = ["METHODS", "Anonymized", "KnownPath", "Recovered", "SolverStep", "anonymize", "recover"]

METHODS: Final = ("exact", "paper")

_ANONYMIZE: Final[dict[str, Callable[..., Anonymized]]] = {"exact": exact.anonymize, "paper": paper.anonymize}
_RECOVER: Final[dict[str, Callable[..., Recovered]]] = {"exact": exact.recover, "paper": paper.recover}


def anonymize(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    *,
    method: str = "exact",
    transform: str = "rotation",
    steps: int = DEFAULT_STEPS,
    noise: Tensor | None = None,
) -> Anonymized:
    """Anonymizes a batch of faces under their keys.

    z: (B, C, h, w) float64 latent of the crops; only its masked coordinates are used.
    z_known: (B, C, h, w) float64 latent encoded with the faces blanked; only used outside the mask.
    mask: (B, 1, h, w) of {0, 1}, its own for each face, none empty. face_keys: B keys of 32 bytes.
    noise: (B, C, h, w) float64, what an earlier call returned of the same faces under other keys; saves half the evaluations.
    Raises ValueError for arguments that do not fit together.
    """
    _check(prior, method, mask, face_keys, z, z_known, *([] if noise is None else [noise]))
    if noise is not None and (method != "exact" or prior.conditioning != "inpaint"):
        raise ValueError("the noise latent serves for another key with method exact and an inpainting prior only")
    return _ANONYMIZE[method](
        prior,
        z.double(),
        z_known.double(),
        mask.double(),
        face_keys,
        transform,
        lambda_grid(prior.alpha_bar, steps, *prior.grid_ends),
        *([] if noise is None else [noise]),
    )


def recover(
    prior: Prior,
    latent: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    scale: Tensor,
    *,
    method: str = "exact",
    transform: str = "rotation",
    steps: int = DEFAULT_STEPS,
    tolerance: float = DEFAULT_TOLERANCE,
    max_iterations: int = DEFAULT_MAX_ITERATIONS,
) -> Recovered:
    """Undoes `anonymize`, given the same prior, mask, keys, method, transform and steps, and its scale (B,).

    latent: (B, C, h, w) float64, the anonymized latent, known region outside the mask.
    tolerance: largest accepted rms residual of a solved step, in latent units.
    Raises ConvergenceError with the numbers when a step can not be solved to it.
    """
    _check(prior, method, mask, face_keys, latent)
    if tuple(scale.shape) != (len(latent),):
        raise ValueError(f"{len(latent)} faces need as many scales, got {tuple(scale.shape)}")
    grid = lambda_grid(prior.alpha_bar, steps, *prior.grid_ends)
    return _RECOVER[method](
        prior, latent.double(), mask.double(), face_keys, scale.double(), transform, grid, tolerance, max_iterations
    )


def _check(prior: Prior, method: str, mask: Tensor, face_keys: Sequence[bytes], *latents: Tensor) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    batch = len(face_keys)
    shape, mask_shape = (batch, *prior.latent_shape), (batch, 1, *prior.latent_shape[1:])
    if batch == 0 or any(tuple(z.shape) != shape for z in latents) or tuple(mask.shape) != mask_shape:
        raise ValueError(
            f"{batch} face keys need latents {shape} and masks {mask_shape}, got "
            f"{[tuple(z.shape) for z in latents]} and {tuple(mask.shape)}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask holds zeros and ones only")
