"""Faces for attacks to be tried on, and what an attacker sees of them.

The keys here are thrown away: they come from the attack's own generator and never made anything that was published. A run's own
keys are not released for measuring; of what a run published only the published part is here (`Trial.published`).

What an attacker sees of a face is its latent, as a sidecar holds it, and the noise that it was made from: the way from noise to
face is public, and can be walked back by anybody who has the prior (`methods.noise_of`). So the noise counts as published.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion

from keyanon_core.carriers import CarrierKeys, take_off
from keyanon_core.evaluation.published import PublishedPicture
from keyanon_core.evaluation.recovery import Crops, eight_bit
from keyanon_core.faces.detection import Face, Pixels, Recognizer
from keyanon_core.keys import IMAGE_KEY_BYTES, face_key
from keyanon_core.methods import anonymize, decode, entering, noise_of
from keyanon_core.pictures.settings import DEFAULT_FACE_BATCH, DEFAULT_SIDECAR_BITS
from keyanon_core.pictures.stored import known_latent, levels_of, rounded
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.sidecar import encode_surroundings

RIM: Final = 2  # cells; one is what interpolation mixes when a crop is read from a picture
MIN_FACES: Final = 6  # below, no attack could be told from chance

Stack = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Embeddings = npt.NDArray[np.float64]
Note = Callable[[str], None]
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Seen:
    """What an attacker has of n published faces.

    latent (n, C, h, w) float64: anonymized inside the masks, the known region outside. noise (n, C, h, w) float64: what Phi made
    it from, zero outside the masks. crops (n, 3, S, S): the latent, decoded.
    """

    latent: Stack = field(repr=False)
    noise: Stack = field(repr=False)
    crops: Crops = field(repr=False)


@dataclass(frozen=True)
class Keyed:
    """The same faces, made here. image_keys, keys: n keys of 32 bytes, and those of their faces; scale (n,) float64: what the
    transforms divided out. turned (n, C, h, w) float64: what they made, which is the noise of a face without a carrier.
    """

    seen: Seen
    image_keys: tuple[bytes, ...] = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)
    scale: npt.NDArray[np.float64] = field(repr=False)
    turned: Stack = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """n source faces of different people, and what was published of them.

    sources (n, 3, S, S) float64 in [-1, 1]; masks (n, S, S) bool; inside (n, 1, h, w) float64 of {0, 1}. entering (n, C, h, w)
    float64: what the keyed transform is given of each source, without an inversion the whole crop, with one its noise inside the
    mask; whoever has the picture can compute it.
    levels: in which latents are stored. published: what is attacked. read_back: the same as an attacker without sidecars reads it
    from 8-bit pictures. practice: the same faces again under other keys, those of an attacker who tries for himself.
    pictures: what a run published, none where the faces were only made here; origins: which of them each face is in.
    """

    prior: Prior
    recognizer: Recognizer
    procedure: Procedure
    sources: Crops = field(repr=False)
    masks: Bits = field(repr=False)
    inside: Stack = field(repr=False)
    entering: Stack = field(repr=False)
    levels: int
    published: Seen
    read_back: Seen
    practice: Keyed
    pictures: tuple[PublishedPicture, ...] = field(default=(), repr=False)
    origins: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    def named(self, face: int) -> str:
        """The id of the picture that a face is in; its number where there is none."""
        return self.pictures[self.origins[face]].image_id if self.origins else f"face {face}"

    def whom(self, face: int) -> str:
        """Whose picture a face is in; where nobody says, the picture's id."""
        subject = self.pictures[self.origins[face]].subject if self.origins else None
        return self.named(face) if subject is None else subject

    @property
    def target_rms(self) -> float:
        """Rms of the noise that faces are made from, where the transform scales."""
        return self.prior.temperature * self.procedure.gain

    @property
    def commitments(self) -> list[tuple[str, int, bytes]]:
        """Image id, index and commitment of every face that a run published with a sidecar."""
        with_sidecar = [(picture, picture.sidecar) for picture in self.pictures if picture.sidecar is not None]
        return [
            (picture.image_id, index, face.commitment)
            for picture, sidecar in with_sidecar
            for index, face in enumerate(sidecar.faces)
        ]

    @cached_property
    def cells(self) -> Bits:
        """(n, C h w) bool: the masked coordinates of each face."""
        return self._of_every_channel(self.inside[:, 0] > 0)

    @cached_property
    def inner_cells(self) -> Bits:
        """The same without RIM cells along the edge, to which pixels contribute that are published as they were."""
        inner = [binary_erosion(one, iterations=RIM) for one in self.inside[:, 0] > 0]
        return self._of_every_channel(np.stack(inner))

    def _of_every_channel(self, cells: Bits) -> Bits:
        return np.broadcast_to(cells[:, None], self.entering.shape).reshape(len(self), -1)

    def embedded(self, crops: Crops) -> Embeddings:
        """(n, d): the recognizer's identity vectors of crops as 8-bit pictures."""
        return np.asarray(self.recognizer.embed([(pixels, self.standing) for pixels in pictures_of(crops)]), np.float64)

    @property
    def standing(self) -> Face:
        """Where a face stands in its crop."""
        side = float(self.prior.side)
        return Face((0.0, 0.0, side, side), self.prior.landmark_template, 1.0)

    @cached_property
    def identities(self) -> dict[str, Embeddings]:
        """Of the sources, the published faces and the practice ones."""
        kinds = {
            "sources": self.sources,
            "published": self.published.crops,
            "practice": self.practice.seen.crops,
        }
        return {name: self.embedded(crops) for name, crops in kinds.items()}


def pictures_of(crops: Crops) -> list[Pixels]:
    """(S, S, 3) uint8 of each crop."""
    return [np.rint((np.clip(crop, -1, 1).transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8) for crop in crops]


def make_trial(
    prior: Prior,
    recognizer: Recognizer,
    sources: Crops,
    masks: Bits,
    procedure: Procedure,
    rng: np.random.Generator,
    *,
    bits: float = DEFAULT_SIDECAR_BITS,
    published: Stack | None = None,
    read_back: Stack | None = None,
    pictures: Sequence[PublishedPicture] = (),
    origins: Sequence[int] = (),
    carried: Sequence[bool] = (),
    note: Note = lambda text: None,
) -> Trial:
    """Anonymize the faces for practice, and walk back to the noise of all that an attacker sees.

    sources, masks: as in `Trial`, one face of each person. bits: of a sidecar. published (n, C, h, w): latents of a run's
    sidecars; None makes the attacked faces here too. read_back (n, C, h, w): latents as read from a run's pictures; None rounds
    the published crops to 8 bits. carried: which faces are made on a carrier, each on one of its own; () for none.

    Raises ValueError for fewer than MIN_FACES faces or masks that are too small.
    """
    if len(sources) < MIN_FACES or len(sources) != len(masks):
        raise ValueError(f"{len(sources)} faces and {len(masks)} masks; at least {MIN_FACES} of each are needed")
    inside = prior.latent_mask(torch.from_numpy(masks)[:, None])
    surroundings = [encode_surroundings(crop, where) for crop, where in zip(sources, masks, strict=True)]
    known = known_latent(prior, surroundings, torch.from_numpy(masks)[:, None])
    levels = levels_of(bits)
    z = prior.encode(torch.from_numpy(sources))

    def keyed(what: str) -> Keyed:
        note(f"anonymizing {len(sources)} faces {what}")
        image_keys = [rng.bytes(IMAGE_KEY_BYTES) for _ in sources]
        carriers = [rng.bytes(IMAGE_KEY_BYTES) if one else None for one in carried] or [None] * len(image_keys)
        keys = [face_key(one, 0, 0, procedure.transform, own) for one, own in zip(image_keys, carriers, strict=True)]
        made = _batches(
            len(keys),
            lambda at: _made(prior, z[at], known[at], inside[at], keys[at], carriers[at], procedure, levels),
        )
        latent, scale = (torch.cat(parts) for parts in zip(*made, strict=True))
        of_faces = seen(latent.numpy(), what)
        temperature = prior.temperature * procedure.gain
        turned = take_off(torch.from_numpy(of_faces.noise), inside, carriers, procedure.payload_share, temperature)
        return Keyed(of_faces, tuple(image_keys), tuple(keys), scale.numpy(), turned.numpy())

    def seen(latent: Stack, what: str) -> Seen:
        note(f"walking {len(latent)} faces back to their noise, {what}")
        held = torch.from_numpy(latent)
        noise = torch.cat(_batches(len(held), lambda at: noise_of(prior, held[at], inside[at], procedure)))
        return Seen(latent, noise.cpu().numpy(), decode(prior, held, procedure).cpu().numpy())

    practice = keyed("under keys of the attacker's own")
    attacked = keyed("as a run would").seen if published is None else seen(published, "as published")
    if read_back is None:
        shown = prior.encode(torch.from_numpy(eight_bit(attacked.crops)))
        read_back = (inside * shown + (1 - inside) * torch.from_numpy(attacked.latent)).numpy()
    given = _batches(len(z), lambda at: entering(prior, z[at], known[at], inside[at], procedure))
    return Trial(
        prior,
        recognizer,
        procedure,
        sources,
        masks,
        inside.numpy(),
        torch.cat(given).cpu().numpy(),
        levels,
        attacked,
        seen(read_back, "from the picture alone"),
        practice,
        tuple(pictures),
        tuple(origins),
    )


def _made(
    prior: Prior,
    z: torch.Tensor,
    known: torch.Tensor,
    inside: torch.Tensor,
    keys: Sequence[bytes],
    carriers: CarrierKeys,
    procedure: Procedure,
    levels: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    done = anonymize(prior, z, known, inside, keys, procedure, carrier_keys=carriers)
    return rounded(done.latent.cpu(), inside, levels), done.scale.cpu()


def _batches(count: int, work: Callable[[slice], _Made]) -> list[_Made]:
    """What `work` makes of each few faces."""
    return [work(slice(at, at + DEFAULT_FACE_BATCH)) for at in range(0, count, DEFAULT_FACE_BATCH)]
