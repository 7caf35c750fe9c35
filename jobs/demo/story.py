"""The demo's story: anonymize real photographs, recover one by an approved request, and measure what the methods buy."""

import math
import time
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.output.reader import read_manifest, read_rows
from jobs.recovery import prepare, recover_request
from jobs.run.anonymize import run_anonymize
from keyanon_core.errors import ConvergenceError, WrongKeyError
from keyanon_core.evaluation import RecoveryFigures, measure_recovery, psnr
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.imaging import decode_picture
from keyanon_core.keys import new_image_key
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import align_faces
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keystore.embedded import Keystore
from keystore.errors import KeystoreError
from keystore.verification.verify import verify_audit

REQUESTED = "astronaut.png"  # the picture the demo's investigator asks for
REQUESTER, APPROVERS = "ines.investigator", ("dora.dpo", "carl.counsel")
GRANT_LIFETIME = timedelta(hours=2)
COMPARED = (Procedure(), Procedure(inversion="ddim"), Procedure("paper-inpaint"))
FACES_COMPARED = 3  # of the demo's photographs, the first ones
JPEG_QUALITY = 90  # of the re-encoded copy that fidelity `image` and `latent` are tried on

Pixels = npt.NDArray[np.uint8]


@dataclass
class Story:
    """Everything the report shows. Pictures are (H, W, 3) uint8."""

    rows: list[dict[str, object]] = field(default_factory=list)
    sources: dict[str, Pixels] = field(default_factory=dict)
    outputs: dict[str, Pixels] = field(default_factory=dict)
    trail: list[tuple[str, str]] = field(default_factory=list)
    recovered: Pixels | None = None
    manifest: dict[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def anonymize_and_recover(root: Path) -> Story:
    """Run the main job on `root/photos`, then request, approve twice and recover one picture.

    Writes anonymized/, keystore/ and restored/ under root. Raises the jobs' and the keystore's errors.
    """
    story = Story()
    photos, output, keystore_path = root / "photos", root / "anonymized", root / "keystore"
    started = time.monotonic()
    run_anonymize(AnonymizeConfig(photos=str(photos), output=str(output), keystore=str(keystore_path)))
    story.seconds["anonymize"] = time.monotonic() - started
    story.manifest = dict(read_manifest(output))
    for row in read_rows(output):
        source = photos / row.image_id
        story.sources[row.image_id] = decode_picture(source.read_bytes(), max_pixels=10**8)
        if row.output is not None:
            story.outputs[row.image_id] = decode_picture((output / row.output).read_bytes(), max_pixels=10**8)
        story.rows.append({"image": row.image_id, "status": row.status, "reason": row.reason, "faces": row.faces})
    started = time.monotonic()
    _approved_recovery(story, output, keystore_path, root / "restored")
    story.seconds["recover"] = time.monotonic() - started
    return story


def _approved_recovery(story: Story, output: Path, keystore_path: Path, restored: Path) -> None:
    """Request, one refused self-approval, two approvals, release, one refused second release, audit."""
    trail = story.trail
    with Keystore.open(keystore_path) as keystore:
        view = keystore.request(
            REQUESTER,
            [REQUESTED],
            case="C-17",
            purpose="Identify the person shown in the picture of case C-17",
            legal_basis="court-order: 17/2026, demonstration",
            expires=GRANT_LIFETIME,
        )
        trail.append(("request", f"{REQUESTER} asks for {REQUESTED}; {view.approvals_required} approvals needed"))
        _refused(trail, "self-approval", lambda: keystore.approve(view.request_id, REQUESTER, view.digest))
        for person in APPROVERS:
            approved = keystore.approve(view.request_id, person, view.digest)
            trail.append(("approve", f"{person} signs the request's digest; the request is {approved.state}"))
        prepared = prepare(output, restored, view.images)
        report = recover_request(keystore, view.request_id, REQUESTER, prepared)
        (picture,) = report.pictures
        trail.append(
            (
                "release",
                f"keys sealed to one job; {picture.image_id}: {picture.status} with {picture.nfe} NFE, "
                f"{picture.iterations} solver iterations, worst residual {picture.worst_residual:.1e}",
            )
        )
        _refused(trail, "second use", lambda: keystore.release(view.request_id, b"", REQUESTER))
    audit = verify_audit(keystore_path)
    trail.append(("audit verify", f"{'ok' if audit.ok else 'FAILED'}: {audit.size} entries, root {audit.root[:16]}…"))
    if picture.output is not None:
        story.recovered = decode_picture((restored / picture.output).read_bytes(), max_pixels=10**8)


def _refused(trail: list[tuple[str, str]], what: str, act: object) -> None:
    try:
        act()  # type: ignore[operator]
    except KeystoreError as error:
        trail.append((what, f"refused: {error}"))
    else:
        raise AssertionError(f"{what} was not refused")


@dataclass
class FidelityRow:
    """One fidelity on one photograph: PSNR in dB inside the mask against the source photograph."""

    fidelity: str
    stored: str
    psnr: float
    exact: bool
    sidecar_bytes: int
    note: str = ""


@dataclass
class WrongKey:
    """What a random key is told, and what it would show if the commitment were ignored."""

    refusal: str
    shown: Pixels
    psnr_wrong: float
    psnr_anonymized: float


def compare_fidelities(prior: Prior, models: FaceModels, photo: Path) -> tuple[list[FidelityRow], WrongKey]:
    """Anonymize one photograph at each fidelity and recover it as published and from a JPEG copy."""
    encoded = photo.read_bytes()
    source = decode_picture(encoded, max_pixels=10**8)
    recoverer, rows = PictureRecoverer(prior), []
    wrong: WrongKey | None = None
    for fidelity in ("image", "latent", "lossless"):
        anonymizer = PictureAnonymizer(
            prior, models, AnonymizeSettings(fidelity=fidelity, face_batch=1, output_format="png")
        )
        (result,) = anonymizer([PictureTask(photo.name, encoded)])
        picture, sidecar, key = _published(result)
        for stored, copy in (("PNG as published", picture), (f"JPEG copy, quality {JPEG_QUALITY}", _jpeg(picture))):
            try:
                recovered = recoverer.recover(copy, sidecar, key)
                value, exact = _masked_psnr(recovered.pixels, source, key), recovered.exact
            except ConvergenceError:  # what recovery reads is in the picture alone, and a JPEG lost it
                value, exact = math.nan, False
            rows.append(FidelityRow(fidelity, stored, value, exact, len(sidecar)))
        if fidelity == "latent":
            wrong = _try_wrong_key(recoverer, result, source)
    if wrong is None:
        raise AssertionError("no fidelity was tried with a wrong key")
    return rows, wrong


def _try_wrong_key(recoverer: PictureRecoverer, result: PictureResult, source: Pixels) -> WrongKey:
    picture, sidecar, key = _published(result)
    stranger = PictureKey(**{**vars(key), "image_key": new_image_key()})
    try:
        recoverer.recover(picture, sidecar, stranger)
    except WrongKeyError as error:
        refusal = str(error)
    else:
        raise AssertionError("a wrong key was not refused")
    shown = recoverer.recover(picture, sidecar, stranger, check_key=False).pixels
    return WrongKey(
        refusal,
        shown,
        _masked_psnr(shown, source, key),
        _masked_psnr(decode_picture(picture, max_pixels=10**8), source, key),
    )


def compare_methods(
    prior: Prior, models: FaceModels, photos: list[Path]
) -> tuple[npt.NDArray[np.float64], list[RecoveryFigures]]:
    """Cut every face of the photographs and run each of COMPARED on the same crops: (n, 3, S, S) crops, figures."""
    crops = []
    for photo in photos:
        pixels = decode_picture(photo.read_bytes(), max_pixels=10**8)
        faces = models.detector.detect(pixels)
        aligned = align_faces(pixels, faces, models.parser, AnonymizeSettings().regions, prior)
        crops += [face.crop for face in aligned]
    stacked = np.stack([crop.values for crop in crops[:FACES_COMPARED]])
    inside = np.stack([crop.mask for crop in crops[:FACES_COMPARED]])
    return stacked, [measure_recovery(prior, stacked, inside, procedure) for procedure in COMPARED]


def embedded_models() -> FaceModels:
    """The embedded detector, parser and recognizer."""
    return load_face_models("embedded")


def _published(result: PictureResult) -> tuple[bytes, bytes, PictureKey]:
    if result.encoded is None or result.sidecar is None or result.key is None:
        raise AssertionError(f"{result.image_id} was not anonymized: {result.reason}")
    return result.encoded, result.sidecar, result.key


def _jpeg(encoded: bytes) -> bytes:
    buffer = BytesIO()
    Image.open(BytesIO(encoded)).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _masked_psnr(result: Pixels, source: Pixels, key: PictureKey) -> float:
    """PSNR in dB over the pixels of all masks of one picture; infinite when they are equal."""
    inside = np.zeros(source.shape[:2], np.bool_)
    for face in key.faces:
        inside |= face.mask.full(source.shape)
    a, b = (np.moveaxis(picture / 127.5 - 1.0, -1, 0)[None] for picture in (result, source))
    if np.array_equal(result[inside], source[inside]):
        return float("inf")
    return float(psnr(a, b, inside[None])[0])
