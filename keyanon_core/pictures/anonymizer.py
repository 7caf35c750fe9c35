"""Anonymizes the faces of several pictures together.

Faces are gathered across the pictures and go through the prior and the anonymity gate (`attempts`). Then each result is
encoded, and what is judged from there on is what the file shows: the gate measures it again where encoding changed it, and it
is searched again, otherwise than the source was; faces found there that nobody anonymized are taken up in another round. Now
and then one face is restored from what is about to be published (`way_back`). One bad picture costs nobody else's work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.gaps import unseen_between
from keyanon_core.errors import KeyanonError, PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face, without_duplicates
from keyanon_core.faces.given import choose_faces, is_kept, newly_kept
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.missed import missed_faces, missed_in_frames
from keyanon_core.faces.strips import look_at_frames
from keyanon_core.formats.opening import open_source
from keyanon_core.formats.published import SourceFile
from keyanon_core.methods import check_prior
from keyanon_core.pictures.attempts import Attempts
from keyanon_core.pictures.carried import has_room, is_carried, may_be_carried
from keyanon_core.pictures.crops import AlignedFace, align_faces
from keyanon_core.pictures.gate import AnonymityGate
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.painting import paint_all, paint_partly_seen
from keyanon_core.pictures.pasting import touches
from keyanon_core.pictures.results import anonymized, quarantined, without_faces
from keyanon_core.pictures.seams import seams_of
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.pictures.steady import hold_still
from keyanon_core.pictures.way_back import WayBack
from keyanon_core.priors import Prior
from keyanon_core.pseudonyms import Pseudonyms
from keyanon_core.transforms import MIN_COORDINATES

MAX_ROUNDS = 3  # searches of one picture's result; what the last one still finds quarantines the picture
MAX_PAINTED_ROUNDS = 10  # of a piece of a clip, in which it is painted over: each search sees other doubtful faces
REMADE_ROUNDS = 6  # after which what is beside a painted face is painted too: made anew it would show others again
MAX_GATHERED_PIXELS = 128_000_000  # decoded pixels held at once: 3 bytes each for the source, 3 for the result


class PictureAnonymizer:
    """Holds a prior and the face models; call it with a list of pictures, get one result for each, in order."""

    def __init__(
        self, prior: Prior, models: FaceModels, settings: AnonymizeSettings, pseudonyms: Pseudonyms | None = None
    ) -> None:
        """pseudonyms: of the data set's subjects, where the settings have a payload share below 1.

        Raises PriorError for settings under which the prior can not be inverted, and for a method that is not for it.
        """
        if (pseudonyms is None) != (settings.payload_share == 1):
            raise ValueError(
                "pseudonyms and a payload share below 1 go together: without either faces are of one picture"
            )
        self.prior, self.models, self.settings, self.pseudonyms = prior, models, settings, pseudonyms
        settings.check_prior(prior.min_steps, prior.conditioning, prior.name)
        check_prior(prior, settings.method)
        gate = AnonymityGate(models.recognizer, settings.gate_threshold, settings.max_attempts)
        self.attempts = Attempts(prior, gate, settings, pseudonyms)
        self.way_back = WayBack(prior, settings)

    def __call__(self, tasks: Sequence[PictureTask]) -> list[PictureResult]:
        """Anonymize. Never raises for one picture's sake: that picture's result is `quarantined` with a reason.

        Raises NotReversibleError when the way back fails: no picture of this run may be published then.
        """
        results: dict[int, PictureResult] = {}
        for group in self._groups(tasks, results):
            work = [(picture, list(picture.faces)) for _, picture in group]
            while work:
                self._run([face for _, faces in work for face in faces])
                work = [(picture, faces) for picture, _ in work if (faces := self._unfinished(picture))]
            for position, picture in group:
                results[position] = self._finish(picture)
        return [results[position] for position in range(len(tasks))]

    def _run(self, faces: list[FaceAtWork]) -> None:
        """Take faces through the gate: where several stand for a subject whose carrier is not settled, the largest of them first,
        so that one looks for a carrier and not all.
        """
        waiting = sorted(faces, key=lambda face: -face.detected.area)
        while self.pseudonyms is not None:
            first: dict[str, FaceAtWork] = {}
            for face in waiting:
                if face.subject is not None and not face.is_settled:
                    first.setdefault(face.subject, face)
            others = [face for face in waiting if face not in first.values()]
            if not any(face.subject in first for face in others):
                break
            self.attempts.run(list(first.values()))
            waiting = [face for face in others if not face.picture.failure]
            for face in waiting:
                if face.subject is not None and not face.is_settled:
                    face.pseudonym = self.pseudonyms.of(face.subject)
        self.attempts.run(waiting)

    def _groups(
        self, tasks: Sequence[PictureTask], results: dict[int, PictureResult]
    ) -> Iterator[list[tuple[int, OpenedPicture]]]:
        """Open pictures until MAX_GATHERED_PIXELS are held; pictures that end here go straight to `results`."""
        group: list[tuple[int, OpenedPicture]] = []
        held = 0
        for position, task in enumerate(tasks):
            opened = self._open(task)
            if isinstance(opened, PictureResult):
                results[position] = opened
                continue
            self._name_subject(opened)  # who keeps pseudonyms and does not answer is no fault of a picture
            group.append((position, opened))
            held += opened.source.shape[0] * opened.source.shape[1]
            if held >= MAX_GATHERED_PIXELS:
                yield group
                group, held = [], 0
        if group:
            yield group

    def _open(self, task: PictureTask) -> OpenedPicture | PictureResult:
        """Decode, detect, mask and cut the crops of one picture."""
        task = replace(task, permanent=task.permanent or not self.settings.reversible)
        try:
            settings = self.settings
            file = open_source(task.encoded, settings.output_format, settings.jpeg_quality, settings.max_pixels)
            source = file.pixels
            faces, kept = task.faces, task.kept
            if faces is None:
                chosen = choose_faces(source, self.models.detector, task.given, self.settings.faces)
                faces, kept = chosen.faces, chosen.kept
            if not faces and not kept and not self._searched_without_faces(task):
                return without_faces(task, None, passes=self._passes_without_faces(task))
            if task.subjects is not None:
                source = source.copy()
                stay = paint_partly_seen(
                    [source], faces, self.models.parser, self.settings.regions, self.prior, file.frame_height
                )
                task = replace(task, subjects=[task.subjects[at] for at in stay])
                faces = [faces[at] for at in stay]
            picture = OpenedPicture(task, source, source.copy(), file, self._fidelity(task, file), kept=list(kept))
            for aligned in self._aligned(picture, faces):
                picture.faces.append(FaceAtWork(aligned, len(picture.faces), picture))
            if picture.paints:
                picture.seams = seams_of(picture, self.models.parser, settings.regions, self.prior)
            return picture
        except KeyanonError as error:
            return quarantined(task, _reason(error))

    def _fidelity(self, task: PictureTask, file: SourceFile) -> str:
        """How the faces of a picture are to come back. Those of a permanent one never do, and are made as the sidecar's are."""
        if task.permanent:
            return "latent"
        if self.settings.fidelity != "auto":
            return self.settings.fidelity
        return "image" if may_be_carried(file, self.prior) else "latent"

    def _searched_without_faces(self, task: PictureTask) -> bool:
        """True when a picture in which nothing was found goes through the second search all the same: it would be published, or
        was not searched at all."""
        return self._passes_without_faces(task) or self.settings.faces == "given"

    def _passes_without_faces(self, task: PictureTask) -> bool:
        return task.is_part or self.settings.no_face == "pass"

    def _aligned(self, picture: OpenedPicture, detected: Sequence[Face]) -> list[AlignedFace]:
        """All faces of a picture, outlined and cut together, after which it is settled whether they may need a sidecar. Raises
        PictureError.
        """
        crop = self.settings.faces == "aligned"
        regions = self.settings.regions
        aligned = align_faces(
            picture.source,
            detected,
            self.models.parser,
            regions,
            self.prior,
            aligned_crop=crop,
            inner=picture.alone,
            frame_height=picture.file.frame_height,
        )
        inversion = self.settings.inversion
        if self._is_on_trial(picture) and not all(has_room(face, self.prior, inversion) for face in aligned):
            picture.fidelity = "latent"
            return self._aligned(picture, detected)
        for index, face in enumerate(aligned):
            if not face.crop.mask.any():
                raise PictureError("empty_mask", f"face {index} has no pixel of its own to anonymize")
            if self.prior.geometry.coordinates(face.crop.mask) < MIN_COORDINATES:
                raise PictureError("small_mask", f"face {index} has too few pixels of its own for a key to hide them")
        return aligned

    def _finish(self, picture: OpenedPicture) -> PictureResult:
        """What becomes of a picture that nothing is left to do at."""
        task = picture.task
        if picture.failure:
            return quarantined(task, picture.failure, faces=len(picture.faces))
        if not picture.faces:
            return without_faces(task, picture, passes=self._passes_without_faces(task))
        result = anonymized(picture, self.prior, self.settings, self.attempts.levels)
        if result.key is not None:
            self.way_back.pass_by(picture, result)
        return result

    def _unfinished(self, picture: OpenedPicture) -> list[FaceAtWork]:
        """Encode a picture's result, and judge what its file shows. Returns the faces that must go through the prior now."""
        if picture.failure:
            return []
        if picture.paints:
            hold_still(picture, self.attempts.own_faces)
        try:
            published = picture.file.publish(picture.result, [face.painted_mask or face.mask for face in picture.faces])
        except PictureError as error:
            picture.failure = f"{error.reason}: {error}"
            return []
        picture.encoded, picture.shown = published.encoded, published.shown
        if picture.fidelity == "lossless" and published.shown is not picture.result:
            picture.changed = (published.shown != picture.source).any(axis=2)
        faces = self._not_carried(picture, published.shown)
        painted = picture.painted
        faces = faces or self.attempts.turned_back(picture)
        if not faces and picture.painted > painted:  # the file does not show yet that they are
            return self._unfinished(picture)
        faces = faces or self._missed(picture, published.shown)
        picture.shown = None
        return faces

    def _is_on_trial(self, picture: OpenedPicture) -> bool:
        """Whether a picture is tried alone, and may still have its faces in the sidecar."""
        return self.settings.fidelity == "auto" and picture.alone

    def _not_carried(self, picture: OpenedPicture, shown: npt.NDArray[np.uint8]) -> list[FaceAtWork]:
        """Of a picture tried alone that does not bring back every face, all of them: they are made anew, for its sidecar."""
        inversion = self.settings.inversion
        if not self._is_on_trial(picture) or all(is_carried(face, shown, inversion) for face in picture.faces):
            return []
        picture.fidelity = "latent"
        aligned = self._aligned(picture, [face.detected for face in picture.faces])
        for face, anew in zip(picture.faces, aligned, strict=True):
            face.start_again(anew)
        return list(picture.faces)

    def _missed(self, picture: OpenedPicture, shown: npt.NDArray[np.uint8]) -> list[FaceAtWork]:
        """Search what would be published for faces nobody anonymized, and take them up. Returns all faces that must go through
        the prior now: the found ones, and those whose crop held what turned out to be a face.
        """
        if picture.failure:
            return []
        try:
            seen = look_at_frames(self.models.detector.look_again, shown, picture.file.frame_height)
        except KeyanonError as error:
            picture.failure = _reason(error)
            return []
        hidden = [face for face in picture.faces if not face.is_painted]
        faces, masks = [face.detected for face in hidden], [face.mask for face in hidden]
        seen = self._not_kept(picture, seen, faces, masks)
        missed = missed_in_frames(seen, faces, masks, picture.source.shape, picture.file.frame_height)
        if picture.paints:
            missed = self._with_gaps(picture, missed, faces, masks)
        if not missed:
            return []
        most = MAX_PAINTED_ROUNDS if picture.paints else MAX_ROUNDS
        stay = self._without_painted(picture, missed) if picture.paints and picture.rounds < most else missed
        if picture.rounds >= (MAX_ROUNDS if stay else most):
            picture.failure = (
                f"unanonymized_face: after {picture.rounds} rounds the result still shows a face in no mask"
            )
            return []
        picture.rounds += 1
        # What painted ones hid is in the surroundings of those beside them; and the file shows them still.
        return self._taken_up(picture, stay) or self._unfinished(picture)

    def _with_gaps(
        self, picture: OpenedPicture, missed: list[Face], faces: Sequence[Face], masks: Sequence[PictureMask]
    ) -> list[Face]:
        """The missed faces of a piece of a clip, and where they are in the frames between, in which no search found them."""
        if not missed:
            return []
        shape, height = picture.source.shape, picture.file.frame_height
        known = without_duplicates([*picture.missed, *missed])
        between = unseen_between(known, picture.file.frame_times, (shape[1], height))
        missed = missed + missed_in_frames(between, faces, masks, shape, height)
        picture.missed = without_duplicates([*picture.missed, *missed])
        return missed

    def _taken_up(self, picture: OpenedPicture, missed: Sequence[Face]) -> list[FaceAtWork]:
        """As `_take_up`. Where that can not be, missed faces of a piece of a clip are painted over; a picture has a failure."""
        try:
            return self._take_up(picture, missed)
        except PictureError as error:
            if missed and picture.paints and self.settings.doubtful == "paint":
                self._paint_all(picture, missed, boxes=False)
                return self._taken_up(picture, [])
            picture.failure = f"unanonymized_face: the result shows a face that can not be outlined ({error.reason})"
            return []

    def _without_painted(self, picture: OpenedPicture, missed: Sequence[Face]) -> list[Face]:
        """Paint over, of the faces that were missed in a piece of a clip, those of which too little is seen, and from the last
        round on all: what is seen of them even then by the whole of their boxes. Returns the others. Raises FaceModelError.
        """
        if picture.rounds >= MAX_ROUNDS and self.settings.doubtful == "paint":
            self._paint_all(picture, missed, boxes=picture.rounds > MAX_ROUNDS)
            return []
        strips, height = (picture.source, picture.result), picture.file.frame_height
        stay = paint_partly_seen(strips, missed, self.models.parser, self.settings.regions, self.prior, height)
        return [missed[at] for at in stay]

    def _paint_all(self, picture: OpenedPicture, faces: Sequence[Face], *, boxes: bool) -> None:
        strips, height = (picture.source, picture.result), picture.file.frame_height
        paint_all(strips, faces, self.models.parser, self.settings.regions, height, boxes=boxes)

    def _not_kept(
        self, picture: OpenedPicture, seen: Sequence[Face], faces: Sequence[Face], masks: Sequence[PictureMask]
    ) -> list[Face]:
        """The seen faces without those to be left alone, which are counted. Told apart before repeated ones are dropped: a kept
        face must not stand for the one behind it. faces, masks: what was anonymized, which is not left alone wherever it lies.
        """
        keep = picture.task.given.keep
        alone = missed_faces([face for face in seen if is_kept(face, keep)], faces, masks, picture.source.shape)
        picture.kept += newly_kept(alone, keep, picture.kept)
        return [face for face in seen if not is_kept(face, keep, picture.kept)]

    def _take_up(self, picture: OpenedPicture, missed: Sequence[Face]) -> list[FaceAtWork]:
        """Add faces to a picture; see `_missed`. Raises PictureError."""
        known, fidelity = [face.detected for face in picture.faces], picture.fidelity
        aligned = self._aligned(picture, [*known, *missed])
        settled = picture.fidelity != fidelity  # one of the missed faces has no room
        added = [FaceAtWork(face, len(known) + i, picture) for i, face in enumerate(aligned[len(known) :])]
        again = []
        paints = picture.paints and picture.rounds > REMADE_ROUNDS and self.settings.doubtful == "paint"
        for face, anew in zip(picture.faces, aligned, strict=False):
            if face.is_painted:
                continue
            touched = any(touches(face, other.mask) for other in added)
            if settled or touched or not _same_crop(face.aligned, anew):
                if paints:
                    face.paint()
                    continue
                face.start_again(anew)
                again.append(face)
        picture.faces += added
        self._name_subject(picture)
        return again + added

    def _name_subject(self, picture: OpenedPicture) -> None:
        """Let each face stand for its subject, or the largest one for the picture's, unless one does already."""
        task = picture.task
        if self.pseudonyms is None or not picture.faces or any(face.pseudonym for face in picture.faces):
            return
        if task.subjects is None:
            max(picture.faces, key=lambda face: face.detected.area).subject = task.subject
        else:  # what is taken up later stands for nobody
            for face, subject in zip(picture.faces, task.subjects, strict=False):
                face.subject = subject
        for face in picture.faces:
            face.pseudonym = None if face.subject is None else self.pseudonyms.of(face.subject)


def _same_crop(first: AlignedFace, second: AlignedFace) -> bool:
    """True when two crops of one face, and what they stand for, are the same to the bit."""
    same = np.array_equal(first.crop.values, second.crop.values) and np.array_equal(first.crop.mask, second.crop.mask)
    return same and first.mask == second.mask


def _reason(error: KeyanonError) -> str:
    """Why a picture can not be used."""
    return f"{error.reason if isinstance(error, PictureError) else 'unusable'}: {error}"
