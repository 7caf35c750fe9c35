"""The page of a training: its numbers, its loss curve, and pictures of what the prior makes of faces it is not shown."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.pages import data_uri, page_environment
from keystore.storage import durable

PAGE_FILE: Final = "index.html"
PICTURES_FOLDER: Final = "pictures"
SHOWN_EARLIER: Final = 12  # pages' pictures kept in view, newest first
CURVE_SIZE: Final = (720, 240)  # px
JPEG_QUALITY: Final = 90

Crops = npt.NDArray[np.float64]


class PageWriter:
    """Writes `index.html` and the pictures it shows into the output of a training."""

    def __init__(self, output: Path, name: str) -> None:
        self._output, self._name = output, name

    def write(
        self,
        entries: Sequence[dict[str, Any]],
        step: int,
        sources: Crops,
        anonymized: Crops | None,
        samples: Crops | None,
    ) -> None:
        """entries: of the log, oldest first. sources, anonymized: held-out faces (n, 3, S, S) in [-1, 1]; samples: from noise."""
        rows = [crops for crops in (sources, anonymized, samples) if crops is not None and len(crops)]
        folder = self._output / PICTURES_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if rows:
            durable.replace(folder / f"step-{step:08d}.jpg", _encode(_sheet(rows)))
        pictures = sorted(folder.glob("step-*.jpg"), reverse=True)[:SHOWN_EARLIER]
        page = (
            page_environment("jobs.train")
            .get_template("page.html.j2")
            .render(
                name=self._name,
                made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                last=next((entry for entry in reversed(entries) if "loss" in entry), None),
                measures=[entry for entry in reversed(entries) if "held_out_loss" in entry],
                curve=curve([(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]),
                size=CURVE_SIZE,
                pictures=[(path.stem, data_uri(path.read_bytes(), "jpeg")) for path in pictures],
            )
        )
        durable.replace(self._output / PAGE_FILE, page.encode())


def curve(points: Sequence[tuple[int, float]]) -> str:
    """Points of an SVG polyline, logarithmic in the loss."""
    if len(points) < 2:
        return ""
    steps, losses = np.array([point[0] for point in points], float), np.log([max(point[1], 1e-9) for point in points])
    x = (steps - steps.min()) / max(float(np.ptp(steps)), 1.0) * CURVE_SIZE[0]
    y = (losses.max() - losses) / max(float(np.ptp(losses)), 1e-9) * CURVE_SIZE[1]
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _sheet(rows: Sequence[Crops]) -> npt.NDArray[np.uint8]:
    """Rows of crops under each other, (H, W, 3)."""
    width, side = max(len(row) for row in rows), rows[0].shape[-1]
    sheet = np.full((len(rows) * side, width * side, 3), 255, np.uint8)
    for top, row in enumerate(rows):
        for left, crop in enumerate(row):
            pixels = np.clip(np.rint((crop.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
            sheet[top * side : (top + 1) * side, left * side : (left + 1) * side] = pixels
    return sheet


def _encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
