"""The measuring stage, a Ray Data actor: pictures in, numbers, identity vectors and thumbnails of their faces out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from jobs.blocks import ENCODED, FAILURE, ID, ROW, SUBJECT
from jobs.evaluate.counterparts import Counterparts
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.evaluation.baselines import BASELINES, blur
from keyanon_core.evaluation.faces import SOURCE, FaceInVersion, FaceMeasurer
from keyanon_core.evaluation.forms import BESIDE
from keyanon_core.evaluation.inception import Inception
from keyanon_core.evaluation.perceptual import Lpips
from keyanon_core.evaluation.rehearsal import REHEARSAL, Rehearsal, Rehearsed
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.recognizers import RecognizerChoice
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import Prior, load_prior
from keyanon_core.published_weights import PublishedWeights

MEASURED: Final = "anonymized"
RECOVERED: Final = "recovered"


@dataclass(frozen=True)
class RehearsalChoice:
    """What an actor rehearses with: the run's prior and settings. prior_digest: None where the run did not say."""

    prior: str
    prior_digest: str | None
    precision: str
    settings: AnonymizeSettings

    def load_prior(self) -> Prior:
        """Raises PriorError."""
        return load_prior(self.prior, precision=self.precision, expected=self.prior_digest)


class MeasurePictures:
    """Measures each picture of a block; one that can not be measured gets a reason."""

    def __init__(
        self,
        models: FaceModelChoice,
        recognizers: Sequence[RecognizerChoice],
        weights: Mapping[str, tuple[Path, PublishedWeights]],
        versions: Mapping[str, Counterparts],
        rehearsal: RehearsalChoice | None,
        rehearsed: frozenset[int],
        formed: frozenset[int],
        max_pixels: int,
        monitor: Monitor,
    ) -> None:
        """recognizers: beside that of the models. weights: as of `EvaluateConfig.weight_files`. versions: the pictures beside
        each source, MEASURED among them. rehearsed: rows whose pictures are treated by baselines, and by `rehearsal` where there
        is one; formed: those of them that are tried in all forms. Raises FaceModelError, PriorError, EvaluationError,
        MachineError."""
        self._versions, self._rehearsed, self._formed, self._max_pixels = versions, rehearsed, formed, max_pixels
        self._hands = RowsInHand[dict[str, Any], dict[str, Any]](
            "measure", monitor, work=self._measure, quarantine=failed_row, is_witness=lambda found: not found["reason"]
        )
        with self._hands.reporting_faults():
            loaded = models.load(threads=1)
            inception = Inception(*weights["inception"]) if "inception" in weights else None
            lpips = Lpips(*weights["lpips"]) if "lpips" in weights else None
            self._measurer = FaceMeasurer(loaded, [one.load() for one in recognizers], inception, lpips)
            self._rehearse = None
            if rehearsal is not None:
                self._rehearse = Rehearsal(rehearsal.load_prior(), loaded, rehearsal.settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        return portion_of(table, self._hands)

    def _measure(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self._measure_one(row) for row in rows]

    def _measure_one(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._of_picture(row)
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return failed_row(row, reason_of(error))  # any defect met by one picture costs that picture only

    def _of_picture(self, row: dict[str, Any]) -> dict[str, Any]:
        encoded = row[ENCODED]
        source = decode_picture(encoded, self._max_pixels)
        files = {
            name: counterparts.read(row[ID])
            for name, counterparts in self._versions.items()
            if counterparts.has(row[ID])
        }
        versions: dict[str, Pixels] = {name: decode_picture(file, self._max_pixels) for name, file in files.items()}
        faces, masks = self._measurer.faces_of(source)
        missing = {name: "there is no picture of its name" for name in self._versions if name not in files}
        stored = {name: len(file) for name, file in {SOURCE: encoded, **files}.items()}
        again: Rehearsed | None = None
        if row[ROW] in self._rehearsed:
            treated, beside = _treated(source, masks)
            versions, stored = versions | treated, stored | beside
            if self._rehearse is not None:
                again = self._rehearse(encoded, subject=row[SUBJECT], forms=row[ROW] in self._formed)
                versions |= again.versions
                missing |= again.missing
                stored |= again.stored_bytes
        found = self._measurer.measure(source, faces, masks, versions)
        for one in found:
            if again is not None and one.version == REHEARSAL:
                one.values["noise_p"] = again.normality_of(faces[one.face])
        return measured_row(row, found, [f"{name}: {why}" for name, why in missing.items()], stored)


def _treated(source: Pixels, masks: Sequence[PictureMask]) -> tuple[dict[str, Pixels], dict[str, int]]:
    """What other tools make of the faces, and what comes back of that with a key; bytes stored beside the picture."""
    versions, beside = dict[str, Pixels](), dict[str, int]()
    for name, baseline in BASELINES.items():
        version = name.replace(" ", "-")
        if (
            baseline.apply is not blur or version == "blur"
        ):  # an encrypted crop lies beside a blurred face: it is measured once
            versions[version] = baseline.apply(source, masks)
        if baseline.restore is not None:
            restored = baseline.restore(source, masks)
            versions[f"{version}-{RECOVERED}"] = restored.pixels
            beside[f"{version}{BESIDE}"] = int(restored.sizes.sum())
    return versions, beside


def portion_of(
    table: pa.Table, hands: RowsInHand[dict[str, Any], dict[str, Any]], also: Sequence[str] = ()
) -> pa.Table:
    """A block of sources as one of PORTION_SCHEMA. also: columns that `hands` work by, beside those of every source."""
    with hands.reporting_faults():
        rows = {row[ROW]: row for row in table.select([ROW, ID, SUBJECT, ENCODED, FAILURE, *also]).to_pylist()}
        measured = hands.work_through({number: row for number, row in rows.items() if not row[FAILURE]})
        found = [measured.get(number) or failed_row(row, row[FAILURE]) for number, row in rows.items()]
        return pa.Table.from_pylist(found, schema=PORTION_SCHEMA)


def measured_row(
    row: Mapping[str, Any],
    faces: Sequence[FaceInVersion],
    missing: Sequence[str] = (),
    stored: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What PORTION_SCHEMA holds of a picture, a source's row. missing: versions that are not there, and why. stored: bytes, by
    what they are of."""
    told = {"missing": list(missing), "bytes": list((stored or {}).items()), "faces": list(map(_line, faces))}
    return {**_about(row), "reason": "", **told}


def failed_row(row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The same of one that can not be measured, for a reason."""
    return {**_about(row), "reason": reason, "missing": [], "bytes": [], "faces": []}


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": row[ROW], "image_id": row[ID], "subject": row[SUBJECT]}


def _line(face: FaceInVersion) -> dict[str, Any]:
    return {
        "face": face.face,
        "version": face.version,
        "tone": face.tone,
        "view": face.view,
        "values": list(face.values.items()),
        "vectors": [(name, vector.tolist()) for name, vector in face.vectors.items()],
    }


PORTION_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("subject", pa.string()),  # whose picture it is said to be
        ("reason", pa.string()),  # "" of a picture that was measured
        ("missing", pa.list_(pa.string())),
        ("bytes", pa.map_(pa.string(), pa.int64())),
        ("faces", pa.list_(pa.struct([
            ("face", pa.int32()),
            ("version", pa.string()),
            ("tone", pa.string()),
            ("view", pa.binary()),
            ("values", pa.map_(pa.string(), pa.float64())),
            ("vectors", pa.map_(pa.string(), pa.list_(pa.float32()))),
        ]))),
    ]
)  # fmt: skip
"""Of the blocks that come out, and of the portions that they are kept in until the report is written: a row for each picture,
which Ray never divides, whatever the size of its blocks. faces: each in each version."""
