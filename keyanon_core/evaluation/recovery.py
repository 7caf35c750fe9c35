"""What a method, a transform and a way of storing do to the same aligned crops: the figures of reports and benchmarks."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.carriers import CarrierKeys
from keyanon_core.errors import ConvergenceError
from keyanon_core.keys import face_key, new_image_key
from keyanon_core.methods import Anonymized, SolverStep, anonymize, decode, recover
from keyanon_core.pictures.crops import Crop
from keyanon_core.pictures.settings import DEFAULT_SIDECAR_BITS
from keyanon_core.pictures.stored import known_latent, levels_of, packed, rounded
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.sidecar import encode_surroundings

STORAGES = ("float", "sidecar", "8-bit crop")  # float64 in memory; as a sidecar holds it; the crop as an 8-bit picture
Crops = npt.NDArray[np.float64]  # (n, 3, S, S) in [-1, 1]


@dataclass(frozen=True)
class RecoveryFigures:
    """One procedure on n crops. Every psnr is (n,) float64 in dB, inside the mask, against the source crop.

    sidecar_bytes: (n,) int64, of the latents in a sidecar. nfe_*: denoiser evaluations per face. wrong_key_*: the sidecar decoded
    with a random key, its commitment overridden.
    """

    procedure: Procedure
    sidecar_bytes: npt.NDArray[np.int64]
    nfe_anonymize: int
    nfe_recover: int
    noise_rms: npt.NDArray[np.float64]
    anonymized: Crops
    anonymized_psnr: npt.NDArray[np.float64]
    recovered: dict[str, Crops]
    recovered_psnr: dict[str, npt.NDArray[np.float64]]
    wrong_key: Crops
    wrong_key_psnr: npt.NDArray[np.float64]
    solver: list[SolverStep]


def psnr(result: Crops, source: Crops, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB inside the mask, per crop: peak-to-peak 2, crops (n, 3, S, S), mask (n, S, S)."""
    inside = np.broadcast_to(mask[:, None], source.shape)
    error = np.where(inside, result - source, 0.0)
    mean_square = np.square(error).sum(axis=(1, 2, 3)) / inside.sum(axis=(1, 2, 3))
    return np.asarray(10 * np.log10(4.0 / np.maximum(mean_square, np.finfo(np.float64).tiny)), dtype=np.float64)


def eight_bit(crops: Crops) -> Crops:
    """What an 8-bit picture of the crops holds."""
    return np.asarray(np.round((np.clip(crops, -1, 1) + 1) * 127.5) / 127.5 - 1, dtype=np.float64)


@dataclass(frozen=True)
class _Kept:
    """n anonymized crops, and the latents and bytes that a sidecar has of them."""

    mask: torch.Tensor
    keys: list[bytes]
    carriers: CarrierKeys
    done: Anonymized
    latent: torch.Tensor
    sizes: npt.NDArray[np.int64]


def _keep(prior: Prior, crops: Crops, masks: npt.NDArray[np.bool_], procedure: Procedure, bits: float) -> _Kept:
    x, inside = torch.from_numpy(crops), torch.from_numpy(masks)[:, None]
    mask, levels = prior.latent_mask(inside).to(prior.networks.device), levels_of(bits)
    surroundings = [encode_surroundings(crop, where) for crop, where in zip(crops, masks, strict=True)]
    known = known_latent(prior, surroundings, inside)
    keys = [face_key(new_image_key(), 0, 0, procedure.transform) for _ in crops]
    carriers = [new_image_key() for _ in crops] if procedure.payload_share < 1 else ()
    done = anonymize(prior, prior.encode(x), known, mask, keys, procedure, carrier_keys=carriers)
    latent = rounded(done.latent, mask, levels)
    codes = [packed(prior, one, where, levels) for one, where in zip(latent.cpu().numpy(), masks, strict=True)]
    sizes = np.array([len(around) + len(inner) for around, inner in zip(surroundings, codes, strict=True)])
    return _Kept(mask, keys, carriers, done, latent, sizes)


def measure_sidecar(
    prior: Prior, crops: Crops, masks: npt.NDArray[np.bool_], procedure: Procedure, bits: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """What a sidecar of so many bits takes and gives back of each of n crops: bytes (n,), and dB (n,) inside the mask. Arguments
    as in `measure_recovery`.
    """
    kept = _keep(prior, crops, masks, procedure, bits)
    back = recover(prior, kept.latent, kept.mask, kept.keys, kept.done.scale, procedure, carrier_keys=kept.carriers)
    return kept.sizes, psnr(decode(prior, back.latent, procedure).cpu().numpy(), crops, masks)


def measure_recovery(
    prior: Prior, crops: Crops, masks: npt.NDArray[np.bool_], procedure: Procedure, bits: float = DEFAULT_SIDECAR_BITS
) -> RecoveryFigures:
    """Anonymize the crops under fresh keys, on fresh carriers where the procedure has a payload share below 1, and recover them
    from each of STORAGES.

    crops: (n, 3, S, S) float64 in [-1, 1]; masks: (n, S, S) bool. The known region is what a sidecar shows of it, as in the job.
    bits: of the sidecar.
    """
    kept = _keep(prior, crops, masks, procedure, bits)
    done = kept.done
    wrong = [face_key(secrets.token_bytes(len(key)), 0, 0, procedure.transform) for key in kept.keys]
    anonymized = decode(prior, done.latent, procedure).cpu().numpy()
    reencoded = prior.encode(torch.from_numpy(eight_bit(anonymized)).to(kept.mask.device))
    stored = {
        "float": done.latent,
        "sidecar": kept.latent,
        "8-bit crop": kept.mask * reencoded + (1 - kept.mask) * done.latent,
    }

    def restore(latent: torch.Tensor, with_keys: list[bytes]) -> tuple[Crops, list[SolverStep], int]:
        result = recover(prior, latent, kept.mask, with_keys, done.scale, procedure, carrier_keys=kept.carriers)
        return decode(prior, result.latent, procedure).cpu().numpy(), result.steps, result.nfe

    restored = {storage: restore(latent, kept.keys) for storage, latent in stored.items()}
    false_face, _, _ = restore(stored["sidecar"], wrong)
    return RecoveryFigures(
        procedure=procedure,
        sidecar_bytes=kept.sizes,
        nfe_anonymize=done.nfe,
        nfe_recover=restored["sidecar"][2],
        noise_rms=done.noise_rms.cpu().numpy(),
        anonymized=anonymized,
        anonymized_psnr=psnr(anonymized, crops, masks),
        recovered={storage: result[0] for storage, result in restored.items()},
        recovered_psnr={storage: psnr(result[0], crops, masks) for storage, result in restored.items()},
        wrong_key=false_face,
        wrong_key_psnr=psnr(false_face, crops, masks),
        solver=restored["sidecar"][1],
    )


def measure_crops(
    prior: Prior, crops: Sequence[Crop], procedure: Procedure, together: int = 8
) -> Iterator[tuple[range, RecoveryFigures]]:
    """`measure_recovery` of any number of crops, so many together: the places of those that were measured, and their figures.

    A crop that can not be solved, under its own key or the wrong one, is in no places, and costs no other crop its figures.
    """
    for start in range(0, len(crops), together):
        places = range(start, min(start + together, len(crops)))
        yield from _solvable(prior, crops, places, procedure)


def _solvable(
    prior: Prior, crops: Sequence[Crop], places: range, procedure: Procedure
) -> list[tuple[range, RecoveryFigures]]:
    values, masks = (np.stack([getattr(crops[place], name) for place in places]) for name in ("values", "mask"))
    try:
        return [(places, measure_recovery(prior, values, masks, procedure))]
    except ConvergenceError:
        alone = [range(place, place + 1) for place in places] if len(places) > 1 else []
        return [solved for one in alone for solved in _solvable(prior, crops, one, procedure)]
