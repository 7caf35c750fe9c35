"""Takes faces through the prior and the gate, each under one key after another until it passes.

Faces that are given up early leave holes in a batch, and a batch costs the same with and without them: so faces wait before each
stage until a batch is full. A stage is the begin of a walk or one of the gate's early checks; faces of different pictures and
attempts share it, where they are to come back in the same way. What a face comes to does not depend on whom it shares with.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.methods import Anonymized, anonymize, decode
from keyanon_core.methods.exact import Walker, begin
from keyanon_core.pictures.gate import EARLY_CHECKS, AnonymityGate
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.own_faces import OwnFaces
from keyanon_core.pictures.pasting import paste_face
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.pictures.stored import is_storable, known_latent, levels_of, rounded
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.pseudonyms import Pseudonyms
from keyanon_core.sidecar import encode_surroundings

Waiting = list[deque[FaceAtWork]]
BEGINNINGS = 2  # stages of faces that begin: with a source still to be inverted, or with the noise of an earlier key
KEYS_BEFORE_PAINT = 6  # of a face on a settled carrier, where the bound falls no more: another key changes little
KINDS = 2  # of faces in each stage: those that a sidecar will hold, and those that their picture alone will


class Attempts:
    """Holds the prior and the gate; `run` takes any number of faces through them."""

    def __init__(
        self, prior: Prior, gate: AnonymityGate, settings: AnonymizeSettings, pseudonyms: Pseudonyms | None = None
    ) -> None:
        self.prior, self.gate, self.settings, self.pseudonyms = prior, gate, settings, pseudonyms
        self.own_faces = None if pseudonyms is None else OwnFaces(prior, settings.procedure)
        self.levels = levels_of(settings.sidecar_bits)
        self.checks = _early_checks(settings, gate.threshold)

    def run(self, faces: Sequence[FaceAtWork]) -> None:
        """Returns when each face has passed the gate or its picture has a failure."""
        waiting: Waiting = [deque() for _ in range((BEGINNINGS + len(self.checks)) * KINDS)]
        going = list(faces)
        while going or any(waiting):
            for face in going:
                waiting[self._stage(face)].append(face)
            batch = _next_batch(waiting, self.settings.face_batch)
            going = self._go_on([face for face in batch if not face.picture.failure])
        for face in faces:
            face.walker = face.noise = face.latents = None

    def turned_back(self, picture: OpenedPicture) -> list[FaceAtWork]:
        """Measure the faces of a picture as it would be published. Returns those that do not pass so and have another key; where
        one has none, the picture has a failure.
        """
        if picture.shown is picture.result:  # as they were measured
            return []
        faces = [face for face in picture.faces if not face.is_painted]
        self.gate.measure(faces)
        return [face for face in faces if not self.gate.passes(face) and self._has_another_key(face)]

    def _stage(self, face: FaceAtWork) -> int:
        if face.walker is None:
            stage = 0 if face.noise is None else 1
        else:
            stage = BEGINNINGS + list(self.checks).index(face.walker.taken)
        return stage * KINDS + face.picture.alone

    def _go_on(self, batch: list[FaceAtWork]) -> list[FaceAtWork]:
        """Take a batch, all of one stage and kind, to the next. Returns the faces that are to go on."""
        if not batch:
            return []
        if self.settings.method != "exact":
            return self._judge(batch, anonymize(self.prior, *self._problem(batch), self._procedure(batch)))
        walkers = [face.walker for face in batch if face.walker is not None]
        walker = Walker.together(walkers) if walkers else self._begin(batch)
        until = min((taken for taken in self.checks if taken > walker.taken), default=self.settings.steps)
        walker = walker.advance(until)
        if until == self.settings.steps:
            return self._judge(batch, walker.finish(self.settings.steps))
        return self._judge_early(batch, walker)

    def _problem(self, batch: list[FaceAtWork]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[bytes]]:
        """The latents of the crops and of their known regions, the masks, and the keys. All on the prior's device, where a walk
        stays to its end. The latents are the same under every key."""
        if fresh := [face for face in batch if face.latents is None]:
            crops = torch.from_numpy(np.stack([face.crop.values for face in fresh])).to(self.prior.networks.device)
            encoded, known = self.prior.encode(crops), self._known(fresh, crops)
            for position, face in enumerate(fresh):
                face.latents = encoded[position].clone(), known[position].clone()
        latents = [face.latents for face in batch if face.latents is not None]
        mask = self.prior.latent_mask(self._masked(batch))
        keys = [face.key(self.settings.transform) for face in batch]
        return torch.stack([z for z, _ in latents]), torch.stack([known for _, known in latents]), mask, keys

    def _masked(self, batch: list[FaceAtWork]) -> torch.Tensor:
        """(B, 1, S, S) bool, the crops' masks on the prior's device."""
        return torch.from_numpy(np.stack([face.crop.mask for face in batch]))[:, None].to(self.prior.networks.device)

    def _known(self, batch: list[FaceAtWork], crops: torch.Tensor) -> torch.Tensor:
        """The latents of the surroundings as recovery will have them: from the sidecar, or from the picture."""
        masked = self._masked(batch)
        if _alone(batch):
            return _in_half(self.prior.encode(crops.masked_fill(masked, 0.0))) * (1 - self.prior.latent_mask(masked))
        for face in batch:
            face.surroundings = face.surroundings or encode_surroundings(face.crop.values, face.crop.mask)
        return known_latent(self.prior, [face.surroundings for face in batch], masked)

    def _procedure(self, batch: list[FaceAtWork]) -> Procedure:
        return self.settings.procedure_at(batch[0].picture.fidelity)

    def _begin(self, batch: list[FaceAtWork]) -> Walker:
        noises = [face.noise for face in batch if face.noise is not None]
        noise = torch.stack(noises) if noises else None
        carrier_keys = [face.carrier_key for face in batch]
        walker = begin(self.prior, *self._problem(batch), self._procedure(batch), noise, carrier_keys)
        if walker.noise is not None:
            for position, face in enumerate(batch):
                face.noise = walker.noise[position].clone()
        return walker

    def _judge_early(self, batch: list[FaceAtWork], walker: Walker) -> list[FaceAtWork]:
        """Give up the keys that the gate sees no hope for; the others go on from here."""
        judged = [position for position, face in enumerate(batch) if self.gate.looks_early(face)]
        hopeless: set[int] = set()
        if judged:
            looked_at = [batch[position] for position in judged]
            crops = self._shown(looked_at, self.prior.decode(walker.predicted[judged]))
            verdicts = self.gate.hopeless(looked_at, crops, self.checks[walker.taken])
            hopeless = {position for position, verdict in zip(judged, verdicts, strict=True) if verdict}
        for position, face in enumerate(batch):
            face.walker = walker.of(torch.tensor([position]))
            if position in hopeless:
                face.next_key()
        return batch

    def _judge(self, batch: list[FaceAtWork], done: Anonymized) -> list[FaceAtWork]:
        """Paste finished faces and measure them. Returns those that are turned back and have another key."""
        # Recovery from the picture alone needs the latent in it; where the sidecar holds the latent, the picture need not
        # show the noise that the clean end of the grid leaves in it.
        latent = shown = done.latent
        alone = _alone(batch)
        if not alone:
            latent, shown = rounded(latent, self.prior.latent_mask(self._masked(batch)), self.levels), done.clean
        made = decode(self.prior, shown, self.settings.procedure)
        decoded, recognized = self._shown(batch, made), self._recognized_in_sidecar(batch, made)
        for position, face in enumerate(batch):
            stored = latent[position].cpu().numpy()
            if not np.isfinite(decoded[position]).all() or not is_storable(stored, self.levels):
                face.picture.failure = f"not_finite: the prior's result for face {face.index} is not a number"
                continue
            face.latent = stored
            face.shown = decoded[position].astype(np.float32) if face.picture.paints else None
            face.scale, face.noise_rms = float(done.scale[position]), float(done.noise_rms[position])
            paste_face(face, decoded[position], exactly=alone)
        pasted = [face for face in batch if not face.picture.failure]
        self.gate.measure(pasted)
        passed = [face for face in pasted if self.gate.passes(face) and face not in recognized]
        turned_back = [face for face in pasted if face not in passed and self._has_another_key(face)]
        return turned_back + [face for face in passed if not self._may_stay(face)]

    def _shown(self, batch: list[FaceAtWork], decoded: torch.Tensor) -> npt.NDArray[np.float64]:
        """(B, 3, S, S) in [-1, 1]: decoded crops as the pictures show them."""
        crops = decoded.clamp(-1, 1).cpu().numpy()
        if self.own_faces is None:
            return crops
        masks = np.stack([face.crop.mask for face in batch])
        return self.own_faces.shown([face.carrier_key for face in batch], crops, masks)

    def _recognized_in_sidecar(self, batch: list[FaceAtWork], decoded: torch.Tensor) -> list[FaceAtWork]:
        """The faces on carriers that resemble their sources in what a sidecar shows: another face than the picture's."""
        carried = [position for position, face in enumerate(batch) if face.carrier_key is not None]
        if not carried:
            return []
        faces = [batch[position] for position in carried]
        verdicts = self.gate.hopeless(faces, decoded[carried].nan_to_num().clamp(-1, 1).cpu().numpy(), margin=0.0)
        return [face for face, resembles in zip(faces, verdicts, strict=True) if resembles]

    def _may_stay(self, face: FaceAtWork) -> bool:
        """Settle the carrier of a face that passed, the first of its subject; False where another has been settled meanwhile, on
        which the face begins again.
        """
        if face.pseudonym is None or face.is_settled or face.subject is None or self.pseudonyms is None:
            return True
        number = self.pseudonyms.settle(face.subject, face.carrier_number)
        if number != face.carrier_number:
            face.go_over_to(number)
            return False
        face.pseudonym = replace(face.pseudonym, number=number)
        return True

    def _has_another_key(self, face: FaceAtWork) -> bool:
        """Begin a face's next attempt, or fail its picture; of a piece of a clip, paint the face over."""
        paints = face.picture.paints and self.settings.doubtful == "paint"
        most = (
            min(self.settings.max_attempts, KEYS_BEFORE_PAINT)
            if paints and face.is_settled
            else self.settings.max_attempts
        )
        seen = (
            face.source_embedding is not None or not paints
        )  # whom the recognizer does not see no key makes unlike it
        if face.keys_tried < most and seen:
            face.next_key()
            return True
        if paints:
            face.paint()
            return False
        # Neither place nor distance: the reason is published, and both are the source's.
        keys = f"{self.settings.max_attempts} keys" + (" on its subject's settled carrier" if face.is_settled else "")
        face.picture.failure = f"still_recognizable: face {face.index} resembled its source under {keys}"
        return False


def _alone(batch: list[FaceAtWork]) -> bool:
    """Whether recovery will have the picture alone, of a batch of one kind."""
    return batch[0].picture.alone


def _early_checks(settings: AnonymizeSettings, threshold: float) -> dict[int, float]:
    """Steps taken at each early check -> its margin, in order. Of method `exact` alone, and where a distance is too small."""
    looks = [(share, margin) for share, margin in EARLY_CHECKS[settings.inversion] if margin < threshold]
    checks = {max(round(share * settings.steps), 1): margin for share, margin in looks}
    return {at: checks[at] for at in sorted(checks) if at < settings.steps} if settings.method == "exact" else {}


def _next_batch(waiting: Waiting, size: int) -> list[FaceAtWork]:
    """A full batch of the stage nearest to the end, so that few walks are held; else what waits nearest to the begin, since
    it may fill the later stages.
    """
    full = [stage for stage in reversed(waiting) if len(stage) >= size]
    stage = (full or [stage for stage in waiting if stage])[0]
    return [stage.popleft() for _ in range(min(len(stage), size))]


def _in_half(latent: torch.Tensor) -> torch.Tensor:
    """Rounded to float16, which takes away what two encodings of the same pixels may differ by."""
    return latent.half().double()
