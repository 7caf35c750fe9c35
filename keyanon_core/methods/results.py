"""What the methods return."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Phase = Literal["phi", "psi"]


@dataclass(frozen=True)
class Anonymized:
    """latent (B, C, h, w) float64: anonymized inside the mask, the known region outside; what recovery needs.

    clean (B, C, h, w) float64: the same without the noise of the grid's clean end, as the last step predicts it; what is
    worth showing when the latent is stored beside the picture (of the paper's methods: the latent itself).
    scale (B,) float64 belongs to the key: what the transform divided out.
    noise_rms (B,): rms of the masked noise latent before the transform (1 for a face that the prior finds typical).
    nfe: denoiser evaluations for one face.
    noise (B, C, h, w) float64: the masked noise latent before the transform, which serves for another key, too; None where it
    depends on the key. As secret as the source.
    """

    latent: Tensor
    clean: Tensor
    scale: Tensor
    noise_rms: Tensor
    nfe: int
    noise: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SolverStep:
    """One inverted step: of Phi (from the anonymized face to noise) or of Psi (from noise to the recovered face).

    iterations and residual (rms over a face's masked coordinates) are the largest of the batch; `per_face_*` hold all.
    """

    phase: Phase
    t_from: int
    t_to: int
    per_face_iterations: tuple[int, ...]
    per_face_residual: tuple[float, ...]

    @property
    def iterations(self) -> int:
        return max(self.per_face_iterations)

    @property
    def residual(self) -> float:
        return max(self.per_face_residual)


@dataclass(frozen=True)
class Recovered:
    """latent (B, C, h, w) float64; steps: empty for the paper's methods, which solve nothing.

    nfe: denoiser evaluations of the face that needed most. keyed_noise (B, C, h, w): what the anonymized faces were made from, as
    it is found on the way back, zero outside the masks; whoever has the prior can find it.
    """

    latent: Tensor
    steps: list[SolverStep]
    nfe: int
    keyed_noise: Tensor | None = field(default=None, repr=False)
