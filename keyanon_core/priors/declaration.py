"""`keyanon_prior.json`: what a prior says of itself that a diffusers configuration has no field for.

    {"format": 1, "name": "...", "licence": "Apache-2.0", "crop_side": 64, "space_to_depth": 4,
     "conditioning": "inpaint", "landmark_template": [[x, y], ...], "grid": [1, 899], "temperature": 0.9,
     "min_steps": {"none": 4, "ddim": 8}}

Optional: without it a prior is taken for an unconditional one on FFHQ-aligned crops (ldm-celebahq-256).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from keyanon_core.errors import PriorError
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.procedure import INVERSIONS
from keyanon_core.schedule import MAX_STEPS

DECLARATION_FILE: Final = "keyanon_prior.json"
DECLARATION_FORMAT: Final = 1
MAX_CROP_SIDE: Final = 2048
"""Pixels; a larger crop than any known face prior's."""

MIN_TEMPERATURE: Final = 0.5
"""Below it every face comes out as the mean face, and recovery loses what the division amplifies."""

Conditioning = Literal["none", "inpaint"]


@dataclass(frozen=True)
class Declaration:
    """The validated content of `keyanon_prior.json`, or the defaults that stand for its absence.

    landmark_template: (5, 2) float64 in units of the crop's side.
    crop_side: pixels, None to derive it from the networks.
    latent_scaling: factor from the autoencoder's output to the latent, None for the autoencoder's own.
    grid: first and last timestep of the walk, None for the schedule's ends. A first timestep above 0 takes the rounding of
    8-bit pixels for the noise it is, at the price of that much noise in the result.
    temperature: rms of the noise that faces are made from. Below 1 they are smoother and vary less (Kingma and Dhariwal
    2018, Glow): a small prior gains more than it loses.
    min_steps: fewest DDIM steps one way that method `exact` was seen to invert, by inversion; a number alone is for both. Empty
    where nobody measured.
    """

    name: str | None = None
    licence: str | None = None
    crop_side: int | None = None
    space_to_depth: int = 1
    conditioning: Conditioning = "none"
    landmark_template: NDArray[np.float64] = field(default_factory=UPRIGHT_TEMPLATE.copy)
    latent_scaling: float | None = None
    grid: tuple[int, int] | None = None
    temperature: float = 1.0
    min_steps: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What `parse_declaration` makes this of; fields that say nothing are left out."""
        said = {**vars(self), "landmark_template": self.landmark_template.tolist()}
        return {
            "format": DECLARATION_FORMAT,
            **{name: value for name, value in said.items() if value not in (None, {})},
        }


def parse_declaration(values: Any, where: str) -> Declaration:
    """Checks every field; raises PriorError naming the file and the field."""

    default = Declaration()

    def refuse(what: str) -> PriorError:
        return PriorError(f"{where}: {what}; see the documentation of keyanon_prior.json")

    def whole(name: str, low: int, high: int) -> int | None:
        value = values.get(name)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise refuse(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        return value

    def text(name: str) -> str | None:
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            raise refuse(f"{name} must be text, got {value!r}")
        return value

    if not isinstance(values, dict):
        raise refuse("the file must hold a JSON object")
    if unknown := sorted(set(values) - {"format", *vars(default)}):
        raise refuse(f"unknown field(s) {', '.join(unknown)}")
    if values.get("format") != DECLARATION_FORMAT:
        raise refuse(f"format must be {DECLARATION_FORMAT}, got {values.get('format')!r}")
    conditioning = values.get("conditioning", default.conditioning)
    if conditioning not in get_args(Conditioning):
        raise refuse(f"conditioning must be 'none' or 'inpaint', got {conditioning!r}")
    scaling = values.get("latent_scaling")
    if scaling is not None and (type(scaling) not in (int, float) or not 0 < scaling < float("inf")):
        raise refuse(f"latent_scaling must be a positive number, got {scaling!r}")
    temperature = values.get("temperature", default.temperature)
    if type(temperature) not in (int, float) or not MIN_TEMPERATURE <= temperature <= 1:
        raise refuse(f"temperature must be a number from {MIN_TEMPERATURE} to 1, got {temperature!r}")
    grid = values.get("grid")
    if grid is not None and (
        not isinstance(grid, list) or [type(t) for t in grid] != [int, int] or not 0 <= grid[0] < grid[1]
    ):
        raise refuse(f"grid must be two timesteps, the first below the last, got {grid!r}")
    template = default.landmark_template
    if "landmark_template" in values:
        try:
            template = np.array(values["landmark_template"], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise refuse("landmark_template must be five [x, y] pairs") from error
        if template.shape != (5, 2) or not np.isfinite(template).all():
            raise refuse("landmark_template must be five [x, y] pairs of finite numbers")
    return Declaration(
        name=text("name"),
        licence=text("licence"),
        crop_side=whole("crop_side", 8, MAX_CROP_SIDE),
        space_to_depth=whole("space_to_depth", 1, 64) or default.space_to_depth,
        conditioning=cast(Conditioning, conditioning),
        landmark_template=template,
        latent_scaling=None if scaling is None else float(scaling),
        grid=None if grid is None else (grid[0], grid[1]),
        temperature=float(temperature),
        min_steps=_min_steps(values.get("min_steps", {}), refuse),
    )


def _min_steps(value: Any, refuse: Callable[[str], PriorError]) -> dict[str, int]:
    limits = value if isinstance(value, dict) else dict.fromkeys(INVERSIONS, value)
    for inversion, least in limits.items():
        if inversion not in INVERSIONS or type(least) is not int or not 1 <= least <= MAX_STEPS:
            names = ", ".join(INVERSIONS)
            raise refuse(
                f"min_steps must be a whole number from 1 to {MAX_STEPS}, or one for each of {names}, got {value!r}"
            )
    return limits
