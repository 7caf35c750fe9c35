"""Every number that is published of a picture, as a fingerprint of its source: sizes, counts, and whatever stands in a row.

A number gives a face away where it orders people as something does that only their sources show: the scale that the transform
divided out, how bright the face is, how much contrast it has.
"""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, NotTriedError, Outcome, measured
from keyanon_core.evaluation.attacks.vectors import negative_distances
from keyanon_core.evaluation.trial import Stack, Trial


def secrets_of(trial: Trial) -> dict[str, Stack]:
    """(n,) each: what only a source shows."""
    given, cells = planted.entered(trial), trial.cells.sum(1)
    values = [crop[:, mask] for crop, mask in zip(trial.sources, trial.masks, strict=True)]
    return {
        "scale": np.sqrt(np.square(given).sum(1) / cells),
        "brightness": np.array([float(one.mean()) for one in values]),
        "contrast": np.array([float(one.std()) for one in values]),
    }


def _best(
    fields: dict[str, Stack], secrets: dict[str, Stack], rng: np.random.Generator
) -> tuple[Measured, tuple[str, str]]:
    """The pair that links most, and its two names. Equal values are put in a random order, so that a constant links nobody."""
    pairs = [(name, of, values, true) for name, values in fields.items() for of, true in secrets.items()]
    best, names = -1, ("", "")
    for name, of, values, true in pairs:
        ranks, right = (_ranks(one, rng) for one in (values, true))
        hits = int((negative_distances(ranks, right).argmax(1) == np.arange(len(right))).sum())
        if hits > best:
            best, names = hits, (name, of)
    return measured(best, len(next(iter(secrets.values()))), 1 / len(right), looks=len(pairs)), names


def _ranks(values: Stack, rng: np.random.Generator) -> Stack:
    order = np.lexsort([rng.random(len(values)), values])
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    return ranks[:, None]


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    if not trial.pictures:
        raise NotTriedError("there are no published pictures, only crops")
    names = set.intersection(*(set(trial.pictures[at].fields) for at in trial.origins))
    columns = {name: np.array([trial.pictures[at].fields[name] for at in trial.origins]) for name in sorted(names)}
    fields = {name: values for name, values in columns.items() if len(np.unique(values)) > 1}
    if not fields:
        raise NotTriedError("no published number differs from picture to picture")
    secrets = secrets_of(trial)
    result, (name, secret) = _best(fields, secrets, rng)
    drawn = {name: rng.permutation(values) for name, values in fields.items()}
    sentence = "No published number tells whose face a picture shows by what only its source should show."
    if result.wins:
        sentence = (
            f"A published number, {name}, orders the pictures by the {secret} of their sources, which only these should show: "
            "who has the source photographs finds by it whose face it is."
        )
    return Outcome(
        result,
        negative=_best(drawn, secrets, rng)[0],
        positive=_best({"published scale": secrets["scale"] * 2}, secrets, rng)[0],
        sentence=sentence,
        details={"numbers": ", ".join(fields), "nearest": f"{name} as the {secret}"},
    )


ATTACKS: Final = (
    Attack(13, "published numbers as fingerprints", "the rows, sidecars and files of the output; the sources", _run),
)
