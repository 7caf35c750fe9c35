"""Method `exact`: anonymize = Phi . K [. Psi], every step explicit; recover = [Psi^-1 .] K^-1 . Phi^-1, every step solved.

K is the keyed transform, Phi carries its result from the noisy to the clean end of the grid, Psi the source from the clean to the
noisy end before it, where the procedure's inversion is `ddim`. With `none` K acts on the source itself: a dense rotation makes
noise of any vector. Phi and Psi are plain DDIM steps with eps taken at the start of the step, beside a known region that
walks a path of its own. Each step is a bijection as long as its fixed point contracts, so recovery is a true inverse and
not a second guess.

Phi can be walked in pieces (`begin`, `advance`, `finish`), so that a face of which the first steps show that it will not do is
given up before the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from keyanon_core.carriers import CarrierKeys, carrier, put_on, take_off
from keyanon_core.keys import FACE_KEY_BYTES, KeyStream, subkey
from keyanon_core.known_path import KnownPath
from keyanon_core.methods.results import Anonymized, Phase, Recovered, SolverStep
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.schedule import backwards, clean_prediction, ddim_coefficients, forwards, half_log_snr, step_eps
from keyanon_core.solver import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, Solution, SolverLimits, solve_fixed_point
from keyanon_core.transforms import MIN_COORDINATES, apply_forward, apply_inverse, masked_transforms

COARSE_SHARE = {"none": 0.5, "ddim": 0.0}
"""By the inversion: share of Phi's steps, its first, that may be coarse. Recovery undoes them last, so that little goes on from
what they miss: with bfloat16 in 2 of 4 steps a face comes back from its sidecar at 61.7 dB instead of 62.1; in 3 at 59.0, in all
at 51.4 (24 photographs). Through Psi it goes on, and with some priors grows."""

EXTRAPOLATED = 0.5
"""Share of eps's change over the last step, in lambda, that a solved step's first guess goes on by: the whole overshoots."""

TOLERANCES = {"none": (1e-5, 3e-5), "ddim": (DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)}
"""By the inversion: tolerance of the first solved step of Phi and of the last; those between have evenly more. What the first
misses grows some eight times on its way through the others (embedded prior), what the last misses does not; the rounding of a
sidecar of 11.5 bits is twenty times the first. Through Psi as well both would grow further."""


@dataclass(frozen=True)
class Walk:
    """What a batch of faces walks on: the prior, the path of the known region, the masks (B, 1, h, w), the timesteps, and (T,)
    float64 `alpha_bar` at them: the schedule's, but for the clean end where the procedure has a noise of its own there.
    coarse: how many of Phi's steps, its first, may be.

    States w, v are (B, C, h, w) float64, zero outside the masks.
    """

    prior: Prior
    known: KnownPath
    mask: Tensor
    grid: tuple[int, ...]
    alpha_bar: Tensor
    coarse: int

    @staticmethod
    def around(prior: Prior, clean: Tensor, mask: Tensor, face_keys: Sequence[bytes], procedure: Procedure) -> "Walk":
        """Beside the known region of `clean` (B, C, h, w); where it must be noisy, its noise comes from the face keys, so that
        both directions see the same.
        """
        clean, grid, alpha_bar = clean * (1 - mask), prior.grid(procedure), prior.alpha_bar
        if procedure.clean_noise is not None:
            alpha_bar = alpha_bar.clone()
            alpha_bar[grid[0]] = 1 - procedure.clean_noise**2
        noise = None
        if prior.conditioning != "inpaint":
            streams = [KeyStream(subkey(key, "known-noise")) for key in face_keys]
            drawn = torch.stack([torch.from_numpy(s.normal(clean[0].numel())).view(clean.shape[1:]) for s in streams])
            noise = drawn.to(clean) * (1 - mask)
        known = prior.shown(KnownPath(clean, noise, alpha_bar, grid[0]), mask)
        coarse = int(COARSE_SHARE[procedure.inversion] * procedure.steps)
        return Walk(prior, known, mask, grid, alpha_bar, coarse)

    @property
    def coordinates(self) -> Tensor:
        """(B,) masked coordinates of each face."""
        return self.mask.sum((1, 2, 3)) * self.known.clean.shape[1]

    def rms(self, w: Tensor) -> Tensor:
        """(B,) root mean square over each face's masked coordinates."""
        return (w.square().sum((1, 2, 3)) / self.coordinates).sqrt()

    def of(self, faces: Tensor) -> "Walk":
        """That of some faces of the batch; faces: (n,) int64 indices."""
        return replace(self, known=self.known.of(faces), mask=self.mask[faces])

    def eps(self, w: Tensor, t: int, *, coarse: bool = False) -> Tensor:
        return self.prior.eps(w, t, self.known, self.mask, coarse=coarse)

    def step(self, w: Tensor, s: int, t: int, *, coarse: bool = False) -> Tensor:
        """One DDIM step of the masked coordinates: `A w + C eps(w + known_s, s)`."""
        k = ddim_coefficients(self.alpha_bar, s, t)
        return self.mask * (k.a * w + k.c * self.eps(w, s, coarse=coarse))

    def psi(self, w: Tensor) -> Tensor:
        """From the clean to the noisy end of the grid, one evaluation a step."""
        for s, t in forwards(self.grid):
            w = self.step(w, s, t)
        return w

    def unstep(self, v: Tensor, s: int, t: int, eps: Tensor, where: str, limits: SolverLimits) -> Solution:
        """Solves `step(w, s, t) = v`: `w <- (v - C eps(w + known_s, s)) / A`, started from a guess of that eps."""
        k = ddim_coefficients(self.alpha_bar, s, t)

        def g(w: Tensor, faces: Tensor) -> Tensor:
            open_walk = self.of(faces)
            return open_walk.mask * (v[faces] - k.c * open_walk.eps(w, s)) / k.a

        start = self.mask * (v - k.c * eps) / k.a
        return solve_fixed_point(g, start, self.coordinates, limits, where=f"{where} step from timestep {s} to {t}")


@dataclass(frozen=True, repr=False)
class Walker:
    """A batch of faces on its way through Phi, from keyed noise to the clean end of the grid.

    Faces are apart from each other: some can leave (`of`) and go on beside others that have come as far (`together`).
    w (B, C, h, w) float64: the masked coordinates after `taken` steps. clean (B, C, h, w) float64: the face that the last step
    predicts, inside the mask (before the first step: the noise). scale, noise_rms, noise: as in `Anonymized`.
    """

    walk: Walk
    taken: int
    w: Tensor
    clean: Tensor
    scale: Tensor
    noise_rms: Tensor
    noise: Tensor | None

    def of(self, faces: Tensor) -> "Walker":
        """Some faces of the batch; faces: (n,) int64 indices."""
        return replace(
            self,
            walk=self.walk.of(faces),
            w=self.w[faces],
            clean=self.clean[faces],
            scale=self.scale[faces],
            noise_rms=self.noise_rms[faces],
            noise=None if self.noise is None else self.noise[faces],
        )

    @staticmethod
    def together(walkers: Sequence["Walker"]) -> "Walker":
        """One batch of several, of one prior and grid. Raises ValueError when they have not taken as many steps."""
        first = walkers[0]
        if len({(walker.taken, walker.walk.grid) for walker in walkers}) != 1:
            raise ValueError("faces go on together only from the same step")
        noises = [walker.noise for walker in walkers if walker.noise is not None]
        known = KnownPath.together([walker.walk.known for walker in walkers])
        mask = torch.cat([walker.walk.mask for walker in walkers])
        return Walker(
            replace(first.walk, known=known, mask=mask),
            first.taken,
            torch.cat([walker.w for walker in walkers]),
            torch.cat([walker.clean for walker in walkers]),
            torch.cat([walker.scale for walker in walkers]),
            torch.cat([walker.noise_rms for walker in walkers]),
            torch.cat(noises) if noises else None,
        )

    @property
    def predicted(self) -> Tensor:
        """(B, C, h, w) float64: the anonymized latent as it is expected now, the known region around it."""
        return self.clean + self.walk.known.clean

    def advance(self, taken: int) -> "Walker":
        """Phi as far as `taken` steps, one evaluation each."""
        before = w = self.w
        steps = list(enumerate(backwards(self.walk.grid)))[self.taken : taken]
        for number, (s, t) in steps:
            before, w = w, self.walk.step(w, s, t, coarse=number < self.walk.coarse)
        clean = self.clean
        if steps:
            clean = self.walk.mask * clean_prediction(self.walk.alpha_bar, before, w, *steps[-1][1])
        return replace(self, taken=taken, w=w, clean=clean)

    def finish(self, nfe: int) -> Anonymized:
        """What a walk that has taken all its steps comes to."""
        latent = self.w + self.walk.known.clean
        return Anonymized(latent, self.predicted, self.scale, self.noise_rms, nfe, self.noise)


def begin(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    procedure: Procedure,
    noise: Tensor | None = None,
    carrier_keys: CarrierKeys = (),
) -> Walker:
    """K; with inversion `ddim` K . Psi: N evaluations, none with the `noise` of an earlier call. Then the result is put on its
    face's carrier, where it has one. Shapes as in `anonymize`.
    """
    walk = Walk.around(prior, z_known, mask, face_keys, procedure)
    transforms = masked_transforms(procedure.transform, face_keys, mask, z.shape[1])
    inverts = procedure.inversion == "ddim"
    if not inverts and float(walk.coordinates.min()) < MIN_COORDINATES:
        raise ValueError(
            f"a mask of {int(walk.coordinates.min())} coordinates is too small for a rotation to hide what it holds; "
            f"{MIN_COORDINATES} are needed"
        )
    if noise is None:
        noise = walk.psi(z * mask) if inverts else z * mask
    temperature = prior.temperature * procedure.gain
    w, scale = apply_forward(noise, mask, transforms, temperature)
    w = put_on(w, mask, carrier_keys, procedure.payload_share, temperature)
    # Psi depends on the key through the known region's noise alone.
    serves_again = noise if inverts and walk.known.noise is None else None
    return Walker(walk, 0, w, w, scale, walk.rms(noise), serves_again)


def own_faces(
    prior: Prior, crops: Tensor, masked: Tensor, carrier_keys: Sequence[bytes], procedure: Procedure, gain: float = 1.0
) -> Tensor:
    """The crops (B, 3, S, S) float64 in [-1, 1] that carriers come to by themselves. No source has a part in them (p = 0).

    crops: (B, 3, S, S) in [-1, 1], of which the surroundings count. masked: (B, 1, S, S) bool, where the faces are. Both on any
    device. gain: of the temperature. N evaluations each.
    """
    device = prior.networks.device
    crops, masked = crops.to(device), masked.to(device)
    mask = prior.latent_mask(masked)
    walk = Walk.around(prior, prior.encode(crops.masked_fill(masked, 0.0)), mask, carrier_keys, procedure)
    noise = torch.stack([carrier(key, prior.latent_shape) for key in carrier_keys]).to(mask)
    w = gain * prior.temperature * procedure.gain * noise * mask
    scale = walk.rms(w)
    walker = Walker(walk, 0, w, w, scale, scale, None).advance(procedure.steps)
    return prior.decode(walker.predicted).clamp(-1, 1)


def anonymize(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    procedure: Procedure,
    noise: Tensor | None = None,
    carrier_keys: CarrierKeys = (),
) -> Anonymized:
    """N evaluations, 2N with inversion `ddim` unless the `noise` of an earlier call is given; nothing is solved.

    Shapes as in `keyanon_core.methods.anonymize`.
    """
    walker = begin(prior, z, z_known, mask, face_keys, procedure, noise, carrier_keys).advance(procedure.steps)
    return walker.finish(procedure.evaluations if noise is None else procedure.steps)


def recover(
    prior: Prior,
    latent: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    scale: Tensor,
    procedure: Procedure,
    tolerance: float | None = None,
    max_iterations: int = DEFAULT_MAX_ITERATIONS,
    carrier_keys: CarrierKeys = (),
) -> Recovered:
    """Undoes each step of `anonymize` in the reverse order; the known region is the latent outside the mask.

    tolerance: of every solved step; None takes the payload's share of TOLERANCES, since what is missed grows by its inverse.
    """
    first, last = TOLERANCES[procedure.inversion] if tolerance is None else (tolerance, tolerance)
    if tolerance is None:
        first, last = first * procedure.payload_share, last * procedure.payload_share
    limits = [SolverLimits(float(one), max_iterations) for one in np.linspace(first, last, procedure.steps)]
    walk = Walk.around(prior, latent, mask, face_keys, procedure)
    transforms = masked_transforms(procedure.transform, face_keys, mask, latent.shape[1])
    keyed, steps = _undo(walk, latent * mask, "phi", limits)
    temperature = prior.temperature * procedure.gain
    payload = take_off(keyed, walk.mask, carrier_keys, procedure.payload_share, temperature)
    w = apply_inverse(payload, mask, transforms, scale)
    if procedure.inversion == "ddim":
        w, of_psi = _undo(walk, w, "psi", limits)
        steps += of_psi
    return Recovered(
        w + walk.known.clean,
        steps,
        nfe=max(sum(face) for face in zip(*(s.per_face_iterations for s in steps), strict=True)),
        keyed_noise=keyed,
    )


def noise_of(prior: Prior, latent: Tensor, mask: Tensor, procedure: Procedure, tolerance: float) -> Tensor:
    """Phi^-1 alone, which takes no key: (B, C, h, w) float64, the noise that published faces were made from.

    Beside a known region that must be noisy, whose noise the keys draw, it is an attacker's guess. Raises ConvergenceError.
    """
    walk = Walk.around(prior, latent, mask, [bytes(FACE_KEY_BYTES)] * len(latent), procedure)
    limits = [SolverLimits(tolerance)] * procedure.steps
    return _undo(walk, latent * mask, "phi", limits)[0]


def explicit_noise_of(prior: Prior, latent: Tensor, mask: Tensor, procedure: Procedure) -> Tensor:
    """The same to first order, by DDIM from the clean to the noisy end: what becomes of the latent under Psi."""
    walk = Walk.around(prior, latent, mask, [bytes(FACE_KEY_BYTES)] * len(latent), procedure)
    return walk.psi(latent * mask)


def _undo(walk: Walk, v: Tensor, phase: Phase, limits: Sequence[SolverLimits]) -> tuple[Tensor, list[SolverStep]]:
    """Phi^-1 or Psi^-1, each step started from the eps that the steps before ended with."""
    lam = half_log_snr(walk.alpha_bar)
    pairs = backwards(walk.grid) if phase == "phi" else forwards(walk.grid)
    # The clean end is taken for a face without noise, the noisy one for noise without a face: an evaluation there saves none.
    guess = torch.zeros_like(v) if phase == "phi" else v
    known: list[tuple[int, Tensor]] = []  # timestep and eps of the last two steps
    steps: list[SolverStep] = []
    for (s, t), of_step in zip(reversed(pairs), limits, strict=True):
        if len(known) == 2:
            (t_1, eps_1), (t_2, eps_2) = known
            guess = eps_2 + EXTRAPOLATED * float((lam[s] - lam[t_2]) / (lam[t_2] - lam[t_1])) * (eps_2 - eps_1)
        solution = walk.unstep(v, s, t, guess, f"inverse of the {phase}", of_step)
        steps.append(SolverStep(phase, t, s, solution.iterations, solution.residual))
        guess = step_eps(walk.alpha_bar, solution.w, v, s, t)
        known = [*known[-1:], (s, guess)]
        v = solution.w
    return v, steps
