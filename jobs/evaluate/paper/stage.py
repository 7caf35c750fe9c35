"""The measuring stage of the paper's protocol, a Ray Data actor: pictures in, what both methods make of their faces out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.blocks import ENCODED
from jobs.evaluate.measure_stage import failed_row, measured_row, portion_of
from jobs.evaluate.paper.lists import LFW
from jobs.evaluate.paper.source import DATA_SET, DEGRADED, OTHER_PICTURE
from jobs.faults import reason_of
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.evaluation.inception import Inception
from keyanon_core.evaluation.paper.pictures import celeba_view, lfw_view
from keyanon_core.evaluation.paper.protocol import Asked, PaperProtocol, load_paper_models
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.recognizers import RecognizerChoice
from keyanon_core.imaging import decode_picture
from keyanon_core.priors import load_prior


@dataclass(frozen=True)
class PaperModelChoice:
    """What an actor measures with. recognizers: pinned. expected: digests of all models, by their names; {} for any."""

    prior: Path
    face_weights: Path
    recognizers: Sequence[RecognizerChoice]
    inception: Path | None
    steps: int
    expected: Mapping[str, str] = field(default_factory=dict)

    def load(self, device: str) -> PaperProtocol:
        """Raises PriorError, FaceModelError, DeviceError, EvaluationError."""
        prior = load_prior(self.prior, device)
        recognizers = [one.load(device=device) for one in self.recognizers]
        features = None if self.inception is None else Inception(self.inception)
        models = load_paper_models(prior, self.face_weights, recognizers, features, device)
        for name, digest in models.digests().items() if self.expected else ():
            if (before := self.expected.get(name, "none of that name")) != digest:
                raise FaceModelError(f"{name} has digest {digest} here, and {before} where the command was given")
        return PaperProtocol(models, self.steps)


class MeasurePaper:
    """Measures the pictures of a block together; one that can not be measured gets a reason."""

    def __init__(self, choice: PaperModelChoice, max_pixels: int, monitor: Monitor, device: str) -> None:
        """Raises what `PaperModelChoice.load` does, MachineError."""
        self._max_pixels = max_pixels
        self._hands = RowsInHand[dict[str, Any], dict[str, Any]](
            "measure", monitor, work=self._measure, quarantine=failed_row, is_witness=lambda found: not found["reason"]
        )
        with self._hands.reporting_faults():
            self._protocol = choice.load(device)

    def __call__(self, table: pa.Table) -> pa.Table:
        return portion_of(table, self._hands, (DATA_SET, OTHER_PICTURE, DEGRADED))

    def _measure(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        seen = [self._asked(row) for row in rows]
        measured = iter(self._protocol.measure_all([one for one in seen if isinstance(one, Asked)]))
        told = [one if isinstance(one, PictureError) else next(measured) for one in seen]
        return [
            failed_row(row, reason_of(found)) if isinstance(found, PictureError) else measured_row(row, found)
            for row, found in zip(rows, told, strict=True)
        ]

    def _asked(self, row: dict[str, Any]) -> Asked | PictureError:
        view = lfw_view if row[DATA_SET] == LFW else celeba_view

        def seen(encoded: bytes) -> Pixels:
            return view(decode_picture(encoded, self._max_pixels))

        try:
            other = row[OTHER_PICTURE]
            return Asked(seen(row[ENCODED]), None if other is None else seen(other), degraded=row[DEGRADED])
        except PictureError as error:
            return error
