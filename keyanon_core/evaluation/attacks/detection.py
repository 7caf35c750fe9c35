"""Is it anonymized? A classifier of source and anonymized faces by their texture. Nothing hides it."""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.learned import pixelated
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, Outcome, measured
from keyanon_core.evaluation.trial import Stack, Trial, pictures_of


def _textures(trial: Trial, crops: Stack) -> Stack:
    """(n, d): coarse statistics of a crop's detail inside the mask: of each channel's differences side by side, by distance."""
    rows = []
    for crop, mask in zip(pictures_of(crops), trial.masks, strict=True):
        values = crop.astype(np.float64) / 255
        row: list[float] = []
        for step in (1, 2, 4, 8):
            for axis in (0, 1):
                off = np.abs(np.roll(values, -step, axis) - values)[mask]
                row += [*np.log(off.mean(0) + 1e-4), *np.log(off.std(0) + 1e-4)]
        rows.append(row)
    return np.array(rows)


def _told_apart(first: Stack, second: Stack, rng: np.random.Generator) -> Measured:
    """Both of each person are learned, or both are asked about: n faces twice, half of the people each way."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = rng.permutation(len(first))
    hits = 0
    parts = np.array_split(order, 2)
    for asked, known in (parts, parts[::-1]):
        rows = np.concatenate([first[known], second[known]])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(rows, np.repeat([0, 1], len(known)))
        said = model.predict(np.concatenate([first[asked], second[asked]]))
        hits += int((said == np.repeat([0, 1], len(asked))).sum())
    return measured(hits, 2 * len(first), 0.5)


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    sources, shown = _textures(trial, trial.sources), _textures(trial, trial.published.crops)
    result = _told_apart(sources, shown, rng)
    swapped = rng.random(len(sources)) < 0.5
    mixed = [np.where(swapped[:, None], a, b) for a, b in ((sources, shown), (shown, sources))]
    told = "A program tells" if result.wins else "This program does not tell"
    return Outcome(
        result,
        negative=_told_apart(mixed[0], mixed[1], rng),
        positive=_told_apart(sources, _textures(trial, pixelated(trial.sources)), rng),
        sentence=f"{told} anonymized faces from photographed ones. A sidecar beside a picture says it anyway: that a face was "
        "replaced is not a secret.",
    )


ATTACKS: Final = (
    Attack(
        9, "is it anonymized?", "the published pictures, other people's faces and keys of his own", _run, promised=False
    ),
)
