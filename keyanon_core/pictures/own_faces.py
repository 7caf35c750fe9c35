"""The face that a carrier makes by itself, and how a picture of its subject shows it.

What a carrier's noise becomes depends on what the prior sees around it: two pictures of a subject, or two frames of a clip, would
show two relatives. A sidecar brings a face back whatever the picture shows. So the picture shows the features of the carrier's
own face, made once without any picture's surroundings, in the light, the colours and the outline of the face that was made in
the picture's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.faces.blending import inner_weights
from keyanon_core.methods import own_faces
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure

Crop = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

REMEMBERED: Final = 256  # carriers' faces
BACKDROP: Final = -0.6  # dark grey: before a light one faces have less contrast (embedded prior)
OWN_GAIN: Final = 1.15
"""Of the temperature of carriers' own faces. Before one backdrop they are alike; at 1.3 they are less so, and their skin is none
(embedded prior, looked at)."""
DETAIL: Final = 0.33  # of the distance of the eyes: the Gaussian's sigma that parts detail from light and colours
SOFT: Final = 0.15  # of the distance of the eyes: over which the carrier's detail gives way to the picture's
MOST_GAIN: Final = 2.5  # of the carrier's detail, brought to the contrast of the picture's; the least is its inverse


@dataclass(frozen=True)
class Ellipse:
    """About a face's landmarks. below: of its centre, below the middle of the eyes, in distances of the eyes from the mouth.
    half_height: in the same. half_width: in distances of the eyes.
    """

    below: float
    half_width: float
    half_height: float

    def within(self, template: npt.NDArray[np.float64], side: int) -> Bits:
        """(S, S) bool. template: (5, 2) px, a prior's landmarks."""
        eyes, mouth = template[:2].mean(axis=0), template[3:].mean(axis=0)
        across, down = template[1] - template[0], mouth - eyes
        from_centre = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) - (eyes + self.below * down)
        x, y = from_centre @ across / (across @ across), from_centre @ down / (down @ down)
        inside: Bits = np.square(x / self.half_width) + np.square(y / self.half_height) <= 1
        return inside


HEAD: Final = Ellipse(below=0.1, half_width=1.45, half_height=1.6)
"""With hair and chin: where a carrier's own face is made."""

FEATURES: Final = Ellipse(below=0.2, half_width=1.2, half_height=1.4)
"""Without hair and ears: those of the picture fit it better."""


class OwnFaces:
    """Carriers' own faces under a prior and a procedure. It holds what a carrier looks like, and no key of any picture."""

    def __init__(self, prior: Prior, procedure: Procedure) -> None:
        self._prior, self._procedure = prior, procedure
        self._made: dict[bytes, Crop] = {}  # by carrier, those last asked for last
        self._head, self._features = (one.within(prior.landmark_template, prior.side) for one in (HEAD, FEATURES))
        self._eyes = float(np.linalg.norm(prior.landmark_template[1] - prior.landmark_template[0]))

    def shown(self, carrier_keys: Sequence[bytes | None], crops: Crop, masks: Bits) -> Crop:
        """(n, 3, S, S) float64: crops as their pictures show them, inside the masks with the features of their carriers' own
        faces. Those without a carrier stay as they are.

        carrier_keys: of each crop. crops: (n, 3, S, S) float64 in [-1, 1]. masks: (n, S, S).
        """
        self._make([key for key in carrier_keys if key is not None])
        made = [
            crop if key is None else self._with_features(crop, self._made[key], mask)
            for key, crop, mask in zip(carrier_keys, crops, masks, strict=True)
        ]
        return np.stack(made)

    def among(self, carrier_keys: Sequence[bytes], crops: Crop, masks: Bits) -> Crop:
        """The same of crops whose faces no source has a part in: what carriers come to in these surroundings (`own_faces`). Equal
        surroundings show an equal face, whatever the keys of their pictures.
        """
        return self.shown(carrier_keys, self._own(carrier_keys, crops, masks), masks)

    def _make(self, keys: Sequence[bytes]) -> None:
        asked = list(dict.fromkeys(keys))
        new = [key for key in asked if key not in self._made]
        if new:
            side = self._prior.side
            plain, heads = np.full((len(new), 3, side, side), BACKDROP), np.repeat(self._head[None], len(new), axis=0)
            self._made.update(zip(new, self._own(new, plain, heads, OWN_GAIN), strict=True))
        for key in asked:
            self._made[key] = self._made.pop(key)
        for key in list(self._made)[: -max(REMEMBERED, len(asked))]:
            del self._made[key]

    def _own(self, keys: Sequence[bytes], crops: Crop, masks: Bits, gain: float = 1.0) -> Crop:
        masked = torch.from_numpy(masks)[:, None]
        return own_faces(self._prior, torch.from_numpy(crops), masked, keys, self._procedure, gain).cpu().numpy()

    def _with_features(self, crop: Crop, own: Crop, mask: Bits) -> Crop:
        features = (mask & self._features).astype(np.float64)
        detail, wanted = (self._detail(each, mask & self._head) for each in (crop, own))
        contrast, had = (float(np.square(each * features).sum()) for each in (detail, wanted))
        gain = min(max(math.sqrt(contrast / max(had, 1e-12)), 1 / MOST_GAIN), MOST_GAIN)
        share = inner_weights(mask & self._features, SOFT * self._eyes)
        shown: Crop = np.clip(crop + share * (gain * wanted - detail), -1.0, 1.0)
        return shown

    def _detail(self, crop: Crop, inside: Bits) -> Crop:
        """What of a crop is finer than DETAIL, of its pixels inside alone."""
        weights, sigma = inside.astype(np.float64), DETAIL * self._eyes
        around = np.maximum(cv2.GaussianBlur(weights, (0, 0), sigma), 1e-6)
        coarse = np.stack([cv2.GaussianBlur(channel * weights, (0, 0), sigma) / around for channel in crop])
        return np.asarray((crop - coarse) * weights, np.float64)
