"""Sidecars that were changed, spliced from two, or put beside another picture, given to recovery with a right key.

Recovery must refuse each before it computes a pixel. Key records are sealed, and the log that they stand in is signed: what
becomes of those that are tampered with is in docs/tampering.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from keyanon_core.errors import KeyanonError
from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, measured
from keyanon_core.evaluation.published_crops import PublishedCrop, publish_crop
from keyanon_core.evaluation.trial import Trial
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.sidecar import Sidecar

FLIPPED: Final = 20  # single bits, each in a sidecar of its own

Forgery = tuple[str, bytes]


def forgeries(own: Sidecar, other: Sidecar, rng: np.random.Generator) -> Iterator[Forgery]:
    """What an attacker with write access puts in the place of `own`: a name, and the bytes."""
    (mine,), (theirs,) = own.faces, other.faces
    spliced = {
        "another picture's sidecar": other,
        "another's under this record's names": replace(other, record_id=own.record_id, image_id=own.image_id),
        "another face's latent": replace(own, faces=(replace(mine, codes=theirs.codes),)),
        "another face's surroundings": replace(own, faces=(replace(mine, surroundings=theirs.surroundings),)),
        "another face's commitment": replace(own, faces=(replace(mine, commitment=theirs.commitment),)),
        "another record's id": replace(own, record_id=other.record_id),
        "another picture's id": replace(own, image_id=other.image_id),
        "other levels": replace(own, levels=own.levels + 1),
        "a face more": replace(own, faces=(mine, theirs)),
        "no face": replace(own, faces=()),
        "another prior's digest": replace(own, prior_digest="0" * 64),
    }
    for name, one in spliced.items():
        yield name, one.to_bytes()
    whole = own.to_bytes()
    yield "cut short", whole[: len(whole) // 2]
    for at in rng.choice(8 * len(whole), FLIPPED, replace=False).tolist():
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        yield f"bit {at} turned", bytes(changed)


def _accepted(reader: Callable[[bytes], object], forged: bytes) -> bool:
    try:
        reader(forged)
    except KeyanonError:
        return False
    return True


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    crops: list[PublishedCrop] = [publish_crop(trial, at) for at in (0, 1)]
    own, other = crops
    recoverer = PictureRecoverer(trial.prior)
    tried = list(forgeries(own.sidecar, other.sidecar, rng))
    taken = [
        name for name, forged in tried if _accepted(lambda one: recoverer.recover(own.encoded, one, own.key), forged)
    ]
    noise = [rng.bytes(len(own.sidecar.to_bytes())) for _ in range(FLIPPED)]
    read = sum(_accepted(Sidecar.from_bytes, forged) for _, forged in tried)
    result = measured(len(taken), len(tried), 0.0)
    refuses = f"takes {len(taken)} of" if taken else "refuses all of"
    return Outcome(
        result,
        negative=measured(sum(_accepted(Sidecar.from_bytes, one) for one in noise), len(noise), 0.0),
        positive=measured(read, len(tried), 0.0),
        sentence=f"Recovery {refuses} {len(tried)} changed or exchanged sidecars, before it computes a pixel.",
        details={
            "positive control": "a reader that takes whatever is well-formed",
            **({"taken": ", ".join(taken)} if taken else {}),
        },
    )


ATTACKS: Final = (
    Attack(14, "tampered and spliced sidecars", "write access to the output, other pictures' sidecars", _run),
)
