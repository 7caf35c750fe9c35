"""What the keyed transforms leave of a face's pixels, beside what is left on the sphere, where nothing is.

    python benchmarks/hiding.py --photos DIR [--faces 24] [--keys 4] [--directions 1000]

Without inversion K is handed the pixels themselves, and who holds a result can walk Phi back to K's without a key. First table:
boxes of some sizes from the middle of the faces that the embedded detector finds, each under --keys keys; the columns are those
of `keyanon_core.evaluation.hiding.Traces`. `sphere` is the ideal and shows what chance does to so few results; `sign` is the
control that fails. Second table, for masks of few coordinates: how far the cosines of --directions results to their source are
from the sphere's (Kolmogorov-Smirnov), the worst over vectors that a rotation with structure would give away, in units of what
chance exceeds once in twenty. Anonymizing refuses masks below MIN_COORDINATES.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from shared import crops, photographs, print_table

from keyanon_core.evaluation.hiding import Sampler, distance_from_sphere, hard_sources, keyed, sphere, traces
from keyanon_core.faces import load_face_models
from keyanon_core.priors import load_prior
from keyanon_core.transforms import MIN_COORDINATES

SIDES = (4, 16, 48)  # cells of a box
FEW = (1, 2, 4, 8, 16, 24, 48, 96)  # coordinates
CHANCE = 1.36  # times sqrt(2 / n): the distance of two samples of n that chance exceeds once in twenty
SAMPLERS: dict[str, Sampler] = {"rotation": keyed("rotation"), "sphere": sphere, "sign": keyed("sign")}


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    faces: Annotated[int, typer.Option(min=2, help="Faces at most, in order of name.")] = 24,
    keys: Annotated[int, typer.Option(min=1, help="Keys for each face.")] = 4,
    directions: Annotated[int, typer.Option(min=10, help="Keys for each vector of few coordinates.")] = 1000,
) -> None:
    """Measure and print."""
    crops = _crops(photos, faces)
    typer.echo(f"{len(crops)} faces under {keys} keys each")
    rows = [
        [
            "cells",
            "transform",
            "kurtosis",
            "neighbours",
            "low frequencies",
            "rank by magnitudes",
            "projection",
            "others'",
        ]
    ]
    for side in SIDES:
        start = (crops[0].shape[1] - side) // 2
        sources = [crop[:, start : start + side, start : start + side].ravel() for crop in crops]
        for name, sampler in SAMPLERS.items():
            found = traces(sources, (3, side, side), sampler, keys)
            rows.append([f"{side} x {side}", name, *(f"{value:.3f}" for value in vars(found).values())])
    print_table(rows)
    rows = [["coordinates", "worst distance over chance's", "of"]]
    for n in FEW:
        distances = {
            name: distance_from_sphere(source, SAMPLERS["rotation"], directions)
            for name, source in hard_sources(n).items()
        }
        worst = max(distances, key=lambda name: distances[name])
        rows.append([str(n), f"{distances[worst] / (CHANCE * np.sqrt(2 / directions)):.2f}", worst])
    print_table(rows)
    typer.echo(f"a face is anonymized with {MIN_COORDINATES} coordinates at least")


def _crops(photos: Path, limit: int) -> list[np.ndarray]:
    prior, models = load_prior("embedded"), load_face_models("embedded")
    found: list[np.ndarray] = []
    for path in photographs(photos):
        if len(found) < limit:
            found += [crop.values for crop in crops(path, prior, models)]
    return found[:limit]


if __name__ == "__main__":
    typer.run(main)
