"""How a face is made: what a run chooses, its records say, and recovery repeats backwards.

Without torch, so that a driver, which computes nothing, need not load it.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal, get_args

from keyanon_core.errors import PriorError

EMBEDDED: Final = "embedded"
"""Name of the prior in the package, a run's unless it chooses another."""

EMBEDDED_CONDITIONING: Final = "inpaint"
"""What `keyanon_prior.json` in the package says of it."""

Method = Literal["exact", "paper", "paper-inpaint"]
Transform = Literal["rotation", "sign"]
Inversion = Literal["none", "ddim"]
"""What comes before the keyed transform: nothing, or DDIM from the clean to the noisy end of the grid (Psi)."""

METHODS: Final[tuple[Method, ...]] = get_args(Method)
TRANSFORMS: Final[tuple[Transform, ...]] = get_args(Transform)
INVERSIONS: Final[tuple[Inversion, ...]] = get_args(Inversion)
DEFAULT_METHOD: Final[Method] = "exact"

CONDITIONING: Final = {"paper": "none", "paper-inpaint": "inpaint"}
"""What a method's prior is conditioned on; `exact` runs on every prior."""

DEFAULT_STEPS: Final = {"none": 4, "ddim": 12}
"""By the inversion: DDIM steps one way. A face costs as many evaluations of the denoiser (NFE), twice as many with Psi."""

PAPER_STEPS: Final = 50
"""Those of the paper's authors, for method `paper`."""

GRID_POWER: Final = {"none": 0.7, "ddim": 1.0}
"""See `lambda_grid`. Psi is inverted on the uniform grid only; Phi alone looks better, and is inverted with fewer evaluations, on
one that is finer at its clean end (measured with the embedded prior, powers 0.4 to 1.5)."""

LONG_STEP_GAIN: Final = 0.5
"""Without Psi faces are made from noise of (1 + LONG_STEP_GAIN / N) times the prior's temperature: N long steps lose that
much of it, to first order (measured with the embedded prior, N = 4 against 24)."""

MIN_PAYLOAD_SHARE: Final = 0.05
"""Of a face on a carrier. Its source comes back worse by the inverse: 26 dB here, which only the finest sidecar holds."""

UNDECLARED_MIN_STEPS: Final = {"none": 4, "ddim": 8}
"""Fewest steps one way that recovery is trusted to invert where the prior declares none: 4 there and back do not converge."""

SHOWN_NOISE: Final = 0.025
"""Standard deviation of the noise in a face that recovery reads from the picture: 3 grey levels. The grid's own clean end leaves
7 with the embedded prior. Less is seen less and carries less: of 24 photographs, at 0.02 the median face came back at 43 dB."""


def chosen_transform(method: str) -> str:
    """The transform of a run that asks for none by name: that of the paper's for the methods that are named after it."""
    return "rotation" if method == "exact" else "sign"


def chosen_steps(method: str, inversion: str) -> int:
    """The steps of a run that does not say how many. Raises KeyError for an inversion that is none."""
    return PAPER_STEPS if method == "paper" else DEFAULT_STEPS[inversion]


def is_of_paper(grid: tuple[int, ...]) -> bool:
    """Whether timesteps are those of method `paper`: the clean end, which has none, stands for the first of them."""
    return len(grid) > 1 and grid[0] == grid[1]


def check_conditioning(method: str, conditioning: str, prior: str) -> None:
    """Raise PriorError for a prior that a method is not for. conditioning: of the prior. prior: its name."""
    if conditioning != CONDITIONING.get(method, conditioning):
        other = next(name for name, of_prior in CONDITIONING.items() if of_prior == conditioning)
        raise PriorError(
            f"method {method} is not for prior {prior}, whose conditioning is {conditioning!r} and not "
            f"{CONDITIONING[method]!r}; use method {other}, which is for such priors, or exact, or another prior"
        )


def chosen_inversion(method: str, transform: str) -> str:
    """The inversion of a run that asks for none by name.

    A dense rotation makes noise of any vector, so `exact` needs no inversion under it. Signs flipped on the source itself would
    show it, and the paper's methods begin with one.
    """
    return "none" if (method, transform) == ("exact", "rotation") else "ddim"


@dataclass(frozen=True)
class Procedure:
    """Method, keyed transform, inversion before it, and steps one way.

    transform "", inversion "", steps 0: chosen here. grid: the steps + 1 timesteps that are walked, from the clean to the noisy
    end; () for the prior's own grid of so many steps. Those of `paper` begin with the same one twice, see `is_of_paper`.
    clean_noise: standard deviation of the noise at the grid's clean end, where no network is evaluated without an inversion; None
    for the schedule's. payload_share: p of `carriers`, of those faces that have a carrier; 1 where none has.
    """

    method: str = DEFAULT_METHOD
    transform: str = ""
    inversion: str = ""
    steps: int = 0
    grid: tuple[int, ...] = ()
    clean_noise: float | None = None
    payload_share: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for names that are none, and for a procedure that would not hide a face."""
        if not self.transform:
            object.__setattr__(self, "transform", chosen_transform(self.method))
        for name, allowed in (("method", METHODS), ("transform", TRANSFORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(allowed)}")
        if not self.inversion:
            object.__setattr__(self, "inversion", chosen_inversion(self.method, self.transform))
        if self.inversion not in INVERSIONS:
            raise ValueError(f"unknown inversion {self.inversion!r}; choose from {', '.join(INVERSIONS)}")
        if self.inversion == "none" and chosen_inversion(self.method, self.transform) != "none":
            raise ValueError(
                f"inversion none is for method exact with transform rotation, not for {self.method} with {self.transform}: "
                "only a dense rotation makes noise of the source itself; use inversion ddim"
            )
        if self.clean_noise is not None and (self.inversion != "none" or not 0 < self.clean_noise < 1):
            raise ValueError(f"noise of {self.clean_noise} at the clean end is for inversion none, and between 0 and 1")
        if not MIN_PAYLOAD_SHARE <= self.payload_share <= 1:
            raise ValueError(f"payload_share must be from {MIN_PAYLOAD_SHARE:g} to 1, not {self.payload_share}")
        if self.payload_share < 1 and (self.method, self.transform) != ("exact", "rotation"):
            raise ValueError(
                f"faces ride on a carrier with method exact and transform rotation, not with {self.method} and {self.transform}: "
                "under any other the carrier, once known, would show the source"
            )
        if not self.steps:
            chosen = chosen_steps(self.method, self.inversion)
            object.__setattr__(self, "steps", len(self.grid) - 1 if self.grid else chosen)
        of_paper = self.method == "paper" and bool(self.grid)
        walked = self.grid[1:] if of_paper else self.grid
        rises = all(s < t for s, t in pairwise(walked)) and (not self.grid or self.grid[0] >= 0)
        rises = rises and is_of_paper(self.grid) == of_paper
        if self.steps < 1 or (self.grid and len(self.grid) != self.steps + 1) or not rises:
            raise ValueError(
                f"{self.steps} steps of method {self.method} do not walk the timesteps {self.grid}: they must rise, one more "
                "than steps; those of method paper begin with the same one twice"
            )

    def shown(self) -> "Procedure":
        """The same for faces that recovery reads from the picture, where their noise is seen."""
        return replace(self, clean_noise=SHOWN_NOISE) if self.inversion == "none" else self

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations that make one face under its first key."""
        return self.steps if self.inversion == "none" else 2 * self.steps

    @property
    def gain(self) -> float:
        """What the prior's temperature is multiplied by."""
        return 1 + LONG_STEP_GAIN / self.steps if self.inversion == "none" else 1.0

    def __str__(self) -> str:
        """For people: `exact, rotation, no inversion, 4 steps`."""
        inversion = "no inversion" if self.inversion == "none" else f"inversion {self.inversion}"
        carried = f", payload share {self.payload_share:g}" if self.payload_share < 1 else ""
        return f"{self.method}, {self.transform}, {inversion}, {self.steps} steps{carried}"
