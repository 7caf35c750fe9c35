"""The methods behind one pair of functions: `exact` (the default), `paper` (the reference), and `paper-inpaint`, which is what
becomes of the reference on an inpainting prior.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from keyanon_core.carriers import CarrierKeys
from keyanon_core.errors import ConvergenceError, PriorError
from keyanon_core.known_path import KnownPath
from keyanon_core.methods import exact, paper, paper_inpaint
from keyanon_core.methods.exact import own_faces
from keyanon_core.methods.results import Anonymized, Recovered, SolverStep
from keyanon_core.priors import Prior
from keyanon_core.procedure import METHODS, Procedure, check_conditioning
from keyanon_core.solver import DEFAULT_MAX_ITERATIONS

__all__ = [
    "METHODS",
    "Anonymized",
    "KnownPath",
    "Procedure",
    "Recovered",
    "SolverStep",
    "anonymize",
    "check_prior",
    "decode",
    "entering",
    "noise_of",
    "own_faces",
    "recover",
]

DEFAULT = Procedure()
WITHOUT_KEY = 1e-4  # tolerance of a step that an attacker solves: half of what a sidecar's rounding leaves


def anonymize(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    procedure: Procedure = DEFAULT,
    *,
    noise: Tensor | None = None,
    carrier_keys: CarrierKeys = (),
) -> Anonymized:
    """Anonymizes a batch of faces under their keys.

    z: (B, C, h, w) float64 latent of the crops; only its masked coordinates are used.
    z_known: (B, C, h, w) float64 latent encoded with the faces blanked; only used outside the mask.
    mask: (B, 1, h, w) of {0, 1}, its own for each face, none empty. face_keys: B keys of 32 bytes.
    noise: (B, C, h, w) float64, what an earlier call returned of the same faces under other keys; saves half the evaluations.
    carrier_keys: of each face, None for one without; () for none with. Only where the procedure has a payload share below 1.
    Results are on the prior's device, whatever the device of the arguments.
    Raises ValueError for arguments that do not fit together and for masks that are too small to hide what they hold, PriorError
    as `check_prior`.
    """
    check_prior(prior, procedure.method)
    _check(prior, mask, face_keys, z, z_known, *([] if noise is None else [noise]))
    _check_carriers(carrier_keys, face_keys, procedure)
    of_faces = (prior, _moved(prior, z), _moved(prior, z_known), _moved(prior, mask), face_keys, procedure)
    if noise is None:
        if procedure.method == "exact":
            return exact.anonymize(*of_faces, carrier_keys=carrier_keys)
        made_by = paper.anonymize if procedure.method == "paper" else paper_inpaint.anonymize
        return made_by(*of_faces)
    if (procedure.method, procedure.inversion, prior.conditioning) != ("exact", "ddim", "inpaint"):
        raise ValueError(
            "the noise latent serves for another key with method exact, inversion ddim and an inpainting prior only"
        )
    return exact.anonymize(*of_faces, _moved(prior, noise), carrier_keys)


def recover(
    prior: Prior,
    latent: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    scale: Tensor,
    procedure: Procedure = DEFAULT,
    *,
    tolerance: float | None = None,
    max_iterations: int = DEFAULT_MAX_ITERATIONS,
    carrier_keys: CarrierKeys = (),
) -> Recovered:
    """Undoes `anonymize`, given the same prior, mask, keys, carriers and procedure, and its scale (B,).

    latent: (B, C, h, w) float64, the anonymized latent, known region outside the mask. Computed in strict float32, whatever the
    prior's precision; the result is on its device.
    tolerance: largest accepted rms residual of a solved step, in latent units; None takes those of `exact.TOLERANCES`.
    Raises ConvergenceError with the numbers when a step can not be solved to it.
    """
    _check(prior, mask, face_keys, latent)
    _check_carriers(carrier_keys, face_keys, procedure)
    if tuple(scale.shape) != (len(latent),):
        raise ValueError(f"{len(latent)} faces need as many scales, got {tuple(scale.shape)}")
    if procedure.grid and procedure.grid[-1] >= len(prior.alpha_bar):
        raise ValueError(f"timestep {procedure.grid[-1]} is not in the prior's schedule of {len(prior.alpha_bar)}")
    of_faces = (prior, _moved(prior, latent), _moved(prior, mask), face_keys, scale.double(), procedure)
    with prior.networks.strict():
        if procedure.method == "exact":
            return exact.recover(*of_faces, tolerance, max_iterations, carrier_keys)
        undone_by = paper.recover if procedure.method == "paper" else paper_inpaint.recover
        return undone_by(*of_faces)


def decode(prior: Prior, latent: Tensor, procedure: Procedure) -> Tensor:
    """Latent (B, C, h, w) -> crop (B, 3, S, S) float64, not clamped, as a procedure shows it: `paper` through the codebook."""
    return prior.decode(latent, snapped=procedure.method == "paper")


def check_prior(prior: Prior, method: str) -> None:
    """Raise PriorError for a prior that a method can not run on."""
    check_conditioning(method, prior.conditioning, prior.name)
    schedule = prior.schedule
    if method == "paper" and schedule.prediction_type == "sample" and float(schedule.as_diffusers.clean) == 1:
        raise PriorError(
            f"method paper inverts from alpha_bar = 1, where the noise in a face that prior {prior.name} predicts without noise "
            "(prediction_type sample) is 0 / 0; use a prior of another prediction_type or with set_alpha_to_one false, or exact"
        )


def noise_of(prior: Prior, latent: Tensor, mask: Tensor, procedure: Procedure = DEFAULT) -> Tensor:
    """The noise that published faces were made from, as anybody finds it who has the prior and no key: (B, C, h, w) float64, zero
    outside the masks.

    latent: (B, C, h, w) float64, as stored; mask: (B, 1, h, w). By the solver where it converges, in strict float32, else (and
    for the paper's methods, which solve nothing) by explicit DDIM steps, those of `paper` as its own recovery takes them.
    """
    _check(prior, mask, [b""] * len(latent), latent)
    latent, mask = _moved(prior, latent), _moved(prior, mask)
    with prior.networks.strict():
        if procedure.method == "exact":
            try:
                return exact.noise_of(prior, latent, mask, procedure, WITHOUT_KEY)
            except ConvergenceError:
                if len(latent) > 1:
                    each = [noise_of(prior, latent[i : i + 1], mask[i : i + 1], procedure) for i in range(len(latent))]
                    return torch.cat(each)
        return _inverted(prior, latent, mask, procedure)


def entering(prior: Prior, z: Tensor, z_known: Tensor, mask: Tensor, procedure: Procedure = DEFAULT) -> Tensor:
    """What the keyed transform is given of source faces, (B, C, h, w) float64: the latent itself, whole, without an inversion;
    else its noise inside the masks. Takes no key, as `noise_of`. Arguments as in `anonymize`.
    """
    _check(prior, mask, [b""] * len(z), z, z_known)
    if procedure.inversion == "none":
        return _moved(prior, z)
    whole = mask * z + (1 - mask) * z_known
    with prior.networks.strict():
        return _inverted(prior, _moved(prior, whole), _moved(prior, mask), procedure)


def _inverted(prior: Prior, whole: Tensor, mask: Tensor, procedure: Procedure) -> Tensor:
    """DDIM from the clean to the noisy end, (B, C, h, w) float64, zero outside the masks."""
    if procedure.method == "paper":
        return paper.invert(prior, whole, procedure)[-1].double() * mask
    return exact.explicit_noise_of(prior, whole, mask, procedure)


def _moved(prior: Prior, tensor: Tensor) -> Tensor:
    """float64 where the networks are, so that nothing travels between the steps."""
    return tensor.to(prior.networks.device, torch.float64)


def _check(prior: Prior, mask: Tensor, face_keys: Sequence[bytes], *latents: Tensor) -> None:
    batch = len(face_keys)
    shape, mask_shape = (batch, *prior.latent_shape), (batch, 1, *prior.latent_shape[1:])
    if batch == 0 or any(tuple(z.shape) != shape for z in latents) or tuple(mask.shape) != mask_shape:
        raise ValueError(
            f"{batch} face keys need latents {shape} and masks {mask_shape}, got "
            f"{[tuple(z.shape) for z in latents]} and {tuple(mask.shape)}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask holds zeros and ones only")


def _check_carriers(carrier_keys: CarrierKeys, face_keys: Sequence[bytes], procedure: Procedure) -> None:
    if carrier_keys and len(carrier_keys) != len(face_keys):
        raise ValueError(f"{len(face_keys)} faces need as many carriers, or none, got {len(carrier_keys)}")
    if any(carrier_keys) and procedure.payload_share == 1:
        raise ValueError("a face on a carrier needs a payload share below 1 in its procedure")
