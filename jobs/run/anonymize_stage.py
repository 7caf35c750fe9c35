"""The anonymizing stage of a run, a Ray Data actor with the prior resident.

The driver names this stage and computes nothing: what loads torch is imported where an actor begins.

Every row that comes in goes out, exactly once, whatever happens to it. A key is born, used and sealed within one call of
`AnonymizeFaces`: the blocks that Ray stores, spills and ships hold sealed records only (invariant I3).
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.blocks import (
    ENCODED,
    FACE_COUNT,
    FACES,
    FAILURE,
    FIDELITY,
    FURTHER_SEALED,
    GIVEN,
    ID,
    KEPT_COUNT,
    KEPT_FACES,
    OUTPUT,
    OUTPUT_SHA256,
    PERMANENT,
    PSEUDONYM,
    REASON,
    RECORD_ID,
    ROW,
    SEALED,
    SIDECAR,
    SOURCE_HMAC,
    STATUS,
    SUBJECT,
    TRACK_RECORDS,
    with_results,
)
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.output.keys import PseudonymDoor
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.key_records import to_key_record
from jobs.run.measures import device_here
from jobs.run.progress import ANONYMIZING_STAGE, Monitor
from jobs.run.pseudonyms import AskedPseudonyms
from jobs.run.rows_in_hand import RowsInHand
from jobs.run.track_names import track_of
from keyanon_core.clips.piece import is_piece
from keyanon_core.clips.whose import PieceFaces
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face
from keyanon_core.faces.given import GivenFaces
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keystore.intake.sealing import Sealer

if TYPE_CHECKING:
    from keyanon_core.priors import Prior

LIBRARIES = ("keyanon", "torch", "diffusers", "numpy", "opencv-python", "onnxruntime", "ray", "cryptography")


@dataclass(frozen=True)
class SealingTarget:
    """For which run and data set records are sealed, and to which keystore's public key."""

    run_id: str
    dataset: str
    ingest_public_key: bytes

    def sealer(self) -> Sealer:
        """What seals the records of one block. Raises InvalidRecordError for a malformed public key."""
        return Sealer(self.ingest_public_key, self.run_id, self.dataset)


@dataclass(frozen=True)
class Compute:
    """How one process computes. device: of `usable_device`; threads: of torch and the detector; precision: of the denoiser's
    coarse steps, of `chosen_precision`; compiled: whether torch.compile runs them.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    compiled: bool = False


class AnonymizeFaces:
    """Holds the prior; anonymizes the faces of a block's pictures together and seals their keys.

    A block of RESULT_SCHEMA and the user's own columns comes out, with as many rows as came in. The key of a permanent row is
    not sealed: it ends with the picture that it was made for.
    """

    def __init__(
        self,
        prior: str,
        models: FaceModelChoice,
        settings: AnonymizeSettings,
        sealing: SealingTarget | None,
        compute: Compute,
        expected_prior: str | None,
        monitor: Monitor,
        pseudonyms: PseudonymDoor | None = None,
    ) -> None:
        """Load everything. sealing: None makes every row permanent. expected_prior: digest of a resumed run's prior. pseudonyms:
        where they are asked for, with a payload share below 1.

        Raises PriorError, DeviceError, FaceModelError, ValueError, MachineError.
        """
        self.monitor = monitor
        self.hands = RowsInHand[dict[str, Any], dict[str, Any]](
            ANONYMIZING_STAGE,
            monitor,
            work=self._anonymize,
            quarantine=_quarantined,
            is_witness=lambda published: published[STATUS] == "anonymized",
        )
        self.sealing = sealing
        self.sealer: Sealer | None = None
        self.hands.await_turn()
        with self.hands.reporting_faults():
            self.pseudonyms = None if pseudonyms is None else AskedPseudonyms(pseudonyms)
            self._load(prior, models, settings, compute, expected_prior)

    def _load(
        self,
        prior: str,
        models: FaceModelChoice,
        settings: AnonymizeSettings,
        compute: Compute,
        expected_prior: str | None,
    ) -> None:
        import torch

        from keyanon_core.pictures.anonymizer import PictureAnonymizer
        from keyanon_core.priors import load_prior

        torch.set_num_threads(compute.threads)
        self.prior = load_prior(prior, compute.device, compute.precision, expected=expected_prior)
        face_models = models.load(compute.threads, compute.device)
        self.prior.networks.physical_batch = settings.face_batch
        if compute.compiled:
            self.prior.networks.compile(self.prior.latent_shape)
        self.anonymizer = PictureAnonymizer(self.prior, face_models, settings, self.pseudonyms)
        self.device = device_here(compute.device)
        self.environment = environment(self.prior)
        self.monitor.report_facts(facts(self.prior, face_models, self.environment, settings.face_batch))

    def __call__(self, table: pa.Table) -> pa.Table:
        names = [ROW, ID, SUBJECT, ENCODED, FAILURE, GIVEN, PERMANENT, FACES, KEPT_FACES]
        self.sealer = None  # its batch key lives as long as the block's image keys
        with self.hands.reporting_faults():
            rows = [{**row, PERMANENT: self._permanent(row)} for row in table.select(names).to_pylist()]
            whole = {row[ROW]: row for row in rows if not row[FAILURE]}
            if self.pseudonyms is not None:
                self.pseudonyms.expect({subject for row in whole.values() for subject in _subjects(row)})
            made = self.hands.work_through(whole)
            for row in rows:
                if row[ROW] not in made:
                    made[row[ROW]] = _quarantined(row, row[FAILURE])
            return with_results(table, [made[row[ROW]] for row in rows])

    def _anonymize(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What leaves the actor for each row. Raises whatever the pictures meet together."""
        before = self.prior.nfe
        results = self.anonymizer([_task(row) for row in rows])
        self.monitor.report_keys(
            self.device,
            sum(int(result.metrics.get("attempts", 0)) for result in results),
            sum(result.faces for result in results if result.metrics),
            self.prior.nfe - before,
        )
        published = [self._publishable(row, result) for row, result in zip(rows, results, strict=True)]
        if self.pseudonyms is not None:
            shown = [_subjects(row) for row, one in zip(rows, published, strict=True) if one.get(PSEUDONYM)]
            self.monitor.report_subjects([subject for some in shown for subject in some])
        return published

    def _publishable(self, row: dict[str, Any], result: PictureResult) -> dict[str, Any]:
        """What leaves the actor: publishable bytes and the sealed records."""
        published: dict[str, Any] = {
            ROW: row[ROW],
            ID: row[ID],
            STATUS: result.status,
            REASON: result.reason,
            OUTPUT: result.encoded,
            SOURCE_HMAC: result.source_hmac,
            OUTPUT_SHA256: _sha256(result.encoded),
            FACE_COUNT: result.faces,
            KEPT_COUNT: result.kept,
            PERMANENT: row[PERMANENT],
        }
        if result.status != "anonymized":
            return published
        if self.pseudonyms is not None:
            published[PSEUDONYM] = bool(_subjects(row))
        target = self.sealing
        if row[PERMANENT]:
            return published
        try:
            if target is None or result.key is None or result.encoded is None:
                raise RuntimeError("an anonymized picture came without its key or its picture")
            records = [
                to_key_record(
                    key,
                    run_id=target.run_id,
                    dataset=target.dataset,
                    subject=row[SUBJECT],
                    environment=self.environment,
                )
                for key in result.keys
            ]
            if self.sealer is None:
                self.sealer = target.sealer()
            sealed, *further = map(self.sealer.seal, records)
            tracks = [
                {"track": track_of(key.part), "record_id": key.record_id} for key in result.keys if key.part is not None
            ]
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return _quarantined(row, reason_of(error))  # without a sealed key it is not published
        published |= {SEALED: sealed, FURTHER_SEALED: further or None, TRACK_RECORDS: tracks or None}
        return {**published, RECORD_ID: result.key.record_id, FIDELITY: result.key.fidelity, SIDECAR: result.sidecar}

    def _permanent(self, row: dict[str, Any]) -> bool:
        return self.sealing is None or bool(row[PERMANENT])


def _subjects(row: dict[str, Any]) -> list[str]:
    """Who is shown in a row: of a piece of a clip who each face is, of a picture whom its largest face stands for."""
    if row[ENCODED] is not None and is_piece(row[ENCODED]):
        whose = [] if row[GIVEN] is None else PieceFaces.from_json(row[GIVEN]).subjects
        return sorted({subject for subject in whose if subject is not None})
    return [] if row[SUBJECT] is None else [row[SUBJECT]]


def _task(row: dict[str, Any]) -> PictureTask:
    """What the algorithm is told of a row."""
    faces, kept = ([Face.from_dict(face) for face in json.loads(row[name])] for name in (FACES, KEPT_FACES))
    if is_piece(row[ENCODED]):
        whose = PieceFaces.from_json(row[GIVEN])
        return PictureTask(
            row[ID],
            row[ENCODED],
            faces,
            permanent=row[PERMANENT],
            subjects=whose.subjects,
            is_part=whose.somebody,
            following=whose.following,
        )
    given = GivenFaces() if row[GIVEN] is None else GivenFaces.from_json(row[GIVEN])
    return PictureTask(row[ID], row[ENCODED], faces, kept, given, row[PERMANENT], row[SUBJECT])


def environment(prior: "Prior") -> dict[str, str]:
    """What the numbers depend on beside the settings; goes into every key record and into the manifest. dtype: what the denoiser
    multiplied in where it may be coarse, what was solved is float32, and states are float64.
    """
    import torch

    networks = prior.networks
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found |= {"device": str(networks.device), "dtype": networks.precision}
    if networks.is_compiled:
        found["compiled"] = "torch.compile"
    if networks.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(networks.device)
    found["threads"] = str(torch.get_num_threads())
    found["prior"] = prior.name
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # a source checkout, or another distribution of the same module
            continue
    return found


def facts(prior: "Prior", models: FaceModels, found: dict[str, str], face_batch: int) -> dict[str, Any]:
    """What the manifest says about the models of a run."""
    return {
        "environment": found,
        "prior": {
            "name": prior.name,
            "digest": prior.digest,
            "files": dict(prior.files),
            "parameters": prior.networks.parameters,
            "conditioning": prior.conditioning,
            "crop_side_px": prior.side,
        },
        "face_models": models.digests(),
        "batch_shape": [face_batch, *prior.latent_shape],
    }


def _quarantined(row: dict[str, Any], reason: str) -> dict[str, Any]:
    counts = {FACE_COUNT: 0, KEPT_COUNT: 0, PERMANENT: row[PERMANENT]}
    return {ROW: row[ROW], ID: row[ID], STATUS: "quarantined", REASON: reason, **counts}


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()
