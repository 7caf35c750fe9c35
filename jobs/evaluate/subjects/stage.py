"""The stage of a proposal, a Ray Data actor: pictures in, identity vector and thumbnail of their largest faces out."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.blocks import ENCODED
from jobs.evaluate.measure_stage import failed_row, measured_row, portion_of
from jobs.faults import FaultKind, kind_of, reason_of
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.evaluation.faces import FaceMeasurer
from keyanon_core.imaging import decode_picture


class EmbedLargestFace:
    """Looks at each picture of a block; one without a face, or that can not be read, gets a reason."""

    def __init__(self, models: FaceModelChoice, max_pixels: int, monitor: Monitor) -> None:
        """Raises FaceModelError, MachineError."""
        self._max_pixels = max_pixels
        self._hands = RowsInHand[dict[str, Any], dict[str, Any]](
            "look", monitor, work=self._look, quarantine=failed_row, is_witness=lambda found: not found["reason"]
        )
        with self._hands.reporting_faults():
            self._measurer = FaceMeasurer(models.load(threads=1))

    def __call__(self, table: pa.Table) -> pa.Table:
        return portion_of(table, self._hands)

    def _look(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self._look_at(row) for row in rows]

    def _look_at(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            source = decode_picture(row[ENCODED], self._max_pixels)
            faces, _ = self._measurer.faces_of(source)
            largest = max(faces, key=lambda face: face.area)
            return measured_row(row, self._measurer.measure(source, [largest], [], {}))
        except Exception as error:
            if kind_of(error) is not FaultKind.ROW:
                raise
            return failed_row(row, reason_of(error))
