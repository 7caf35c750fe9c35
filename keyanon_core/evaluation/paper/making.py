"""What the protocol makes of a picture: method `paper` as its authors run it, and `exact` beside it.

Keys are drawn here and thrown away: they never made anything that was published.

`paper`: the whole picture, without alignment; the mask is of BiSeNet's classes; recovery is given the anonymized picture in
floating point, not clamped, encodes it again and outlines it again. A JPEG copy is encoded again, too, and has that same outline.
`exact` has the same picture and mask,
and does with them what keyanon does: it sees the surroundings without the face, keeps the latent in a sidecar, pastes inside the
mask alone, and recovers from the sidecar, which no JPEG touches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from keyanon_core.errors import ConvergenceError
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.paper.models import Classes, PaperModels
from keyanon_core.evaluation.paper.pictures import jpeg_copy
from keyanon_core.evaluation.paper.versions import EXACT, PAPER, recovered_of, wrong_key_of
from keyanon_core.evaluation.trial import pictures_of
from keyanon_core.faces.blending import feather
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.facexlib_models import paper_mask
from keyanon_core.faces.masks import Bits, PictureMask
from keyanon_core.keys import face_key, new_image_key
from keyanon_core.methods import anonymize, decode, recover
from keyanon_core.pictures.pasting import RIM
from keyanon_core.pictures.settings import DEFAULT_SIDECAR_BITS
from keyanon_core.pictures.stored import known_latent, levels_of, rounded
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.sidecar import encode_surroundings


@dataclass(frozen=True)
class Made:
    """A picture and what was made of it.

    face: where the source's stands. versions: (256, 256, 3) uint8, by name, SOURCE first. classes: BiSeNet's of what is outlined.
    solved: of those that `exact` recovers, whether its steps could be solved; where not, the picture is the anonymized one as
    it was.
    """

    face: Face
    versions: dict[str, Pixels] = field(repr=False)
    classes: dict[str, Classes] = field(repr=False)
    solved: dict[str, bool]


class Maker:
    """Makes the versions of several pictures together."""

    def __init__(self, models: PaperModels, steps: int, qualities: Sequence[int]) -> None:
        """As `PaperProtocol`."""
        self._prior, self._parser, self._qualities = models.prior, models.parser, tuple(qualities)
        self._paper, usual = Procedure("paper", steps=steps), Procedure("exact")
        self._exact = Procedure("exact", steps=max(usual.steps, self._prior.min_steps.get(usual.inversion, 0)))

    def coordinates(self, classes: Classes) -> int:
        """How many coordinates of the latent the mask of a picture of such classes (512, 512) covers."""
        return self._prior.latent_shape[0] * int(self._mask([classes]).sum())

    def make(self, works: Sequence[Made], degraded: Sequence[int]) -> None:
        """Add what becomes of each work's source, under fresh keys. degraded: which works are recovered from JPEG copies and with
        a wrong key, too.
        """
        self._by_paper(works, degraded)
        self._by_exact(works, degraded)

    def _by_paper(self, works: Sequence[Made], degraded: Sequence[int]) -> None:
        prior, procedure = self._prior, self._paper
        keys = _fresh_keys(len(works), procedure)
        z = prior.encode(_crops([made.versions[SOURCE] for made in works]))
        shown = decode(prior, anonymize(prior, z, z, self._outlined(works, SOURCE), keys, procedure).latent, procedure)
        _add(works, PAPER, _pictures(shown))
        for made, crop in zip(works, shown.cpu().numpy(), strict=True):
            made.classes[PAPER] = self._parser.classes((crop.transpose(1, 2, 0) + 1) * 127.5)

        def back(latent: Tensor, mask: Tensor, with_keys: list[bytes]) -> list[Pixels]:
            unscaled = torch.ones(len(latent), dtype=torch.float64)
            return _pictures(
                decode(prior, recover(prior, latent, mask, with_keys, unscaled, procedure).latent, procedure)
            )

        again, mask = prior.encode(shown), self._outlined(works, PAPER)
        _add(works, recovered_of(PAPER), back(again, mask, keys))
        if not degraded:
            return
        some, at, own = [works[one] for one in degraded], list(degraded), [keys[one] for one in degraded]
        for quality in self._qualities:
            copies = _crops([jpeg_copy(made.versions[PAPER], quality) for made in some])
            _add(some, recovered_of(PAPER, quality), back(prior.encode(copies), mask[at], own))
        _add(some, wrong_key_of(PAPER), back(again[at], mask[at], _fresh_keys(len(at), procedure)))

    def _by_exact(self, works: Sequence[Made], degraded: Sequence[int]) -> None:
        prior, procedure = self._prior, self._exact
        keys, mask = _fresh_keys(len(works), procedure), self._outlined(works, SOURCE)
        cell = prior.geometry.factor
        masked = (mask > 0).repeat_interleave(cell, 2).repeat_interleave(cell, 3)  # whole cells, in px
        inside, crops = [one[0].numpy() for one in masked], _crops([made.versions[SOURCE] for made in works])
        around = [encode_surroundings(crop, where) for crop, where in zip(crops.numpy(), inside, strict=True)]
        done = anonymize(prior, prior.encode(crops), known_latent(prior, around, masked), mask, keys, procedure)
        pasted = [
            _pasted(made.versions[SOURCE], face, where, RIM)
            for made, face, where in zip(works, _pictures(decode(prior, done.clean, procedure)), inside, strict=True)
        ]
        _add(works, EXACT, pasted)
        for made in works:
            made.classes[EXACT] = self._parser.classes(made.versions[EXACT])
        stored = rounded(done.latent, mask.to(done.latent), levels_of(DEFAULT_SIDECAR_BITS))
        sidecars = _Sidecars(prior, procedure, stored, mask, done.scale)

        def add(version: str, of: Sequence[int], pictures: Sequence[Pixels], faces: Sequence[Pixels | None]) -> None:
            shown = [
                picture if face is None else _pasted(picture, face, inside[at])
                for at, picture, face in zip(of, pictures, faces, strict=True)
            ]
            _add([works[at] for at in of], version, shown)
            for at, face in zip(of, faces, strict=True):
                works[at].solved[version] = face is not None

        every = list(range(len(works)))
        faces = sidecars.recovered(every, keys)
        add(recovered_of(EXACT), every, pasted, faces)
        if not degraded:
            return
        at, own, shown = list(degraded), [faces[one] for one in degraded], [pasted[one] for one in degraded]
        for quality in self._qualities:
            add(recovered_of(EXACT, quality), at, [jpeg_copy(picture, quality) for picture in shown], own)
        add(wrong_key_of(EXACT), at, shown, sidecars.recovered(at, _fresh_keys(len(at), procedure)))

    def _outlined(self, works: Sequence[Made], version: str) -> Tensor:
        return self._mask([made.classes[version] for made in works])

    def _mask(self, classes: Sequence[Classes]) -> Tensor:
        """(B, 1, h, w) float64 of {0, 1}, of the latents of B pictures."""
        cells = self._prior.latent_shape[1]
        return torch.from_numpy(np.stack([paper_mask(one, cells) for one in classes]))[:, None].double()


@dataclass(frozen=True)
class _Sidecars:
    """What `exact` recovers faces from: latent (B, C, h, w) float64 as stored, mask (B, 1, h, w), scale (B,)."""

    prior: Prior
    procedure: Procedure
    latent: Tensor
    mask: Tensor
    scale: Tensor

    def recovered(self, of: list[int], keys: list[bytes]) -> list[Pixels | None]:
        """The whole crops of some faces under these keys; None of one whose steps can not be solved."""
        try:
            back = recover(self.prior, self.latent[of], self.mask[of], keys, self.scale[of], self.procedure)
        except ConvergenceError:
            if len(of) == 1:
                return [None]
            return [self.recovered([one], [key])[0] for one, key in zip(of, keys, strict=True)]
        return [*_pictures(decode(self.prior, back.latent, self.procedure))]


def _add(works: Sequence[Made], version: str, pictures: Sequence[Pixels]) -> None:
    for made, picture in zip(works, pictures, strict=True):
        made.versions[version] = picture


def _fresh_keys(count: int, procedure: Procedure) -> list[bytes]:
    return [face_key(new_image_key(), 0, 0, procedure.transform) for _ in range(count)]


def _crops(pictures: Sequence[Pixels]) -> Tensor:
    """(B, 3, S, S) float64 in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float64) / 127.5 - 1)


def _pictures(crops: Tensor) -> list[Pixels]:
    """(S, S, 3) uint8 of each of (B, 3, S, S)."""
    return pictures_of(crops.cpu().numpy())


def _pasted(picture: Pixels, face: Pixels, inside: Bits, rim: float = 0.0) -> Pixels:
    """A picture with the pixels of a face inside the mask (H, W). rim: px of it that are blended with the surroundings."""
    result = np.where(inside[..., None], face, picture)
    if rim:
        feather(result, PictureMask.from_full(inside), [], rim)
    return result
