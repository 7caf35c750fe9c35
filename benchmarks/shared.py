"""What several of these commands do alike: read photographs and groups, cut crops, and print tables."""

import csv
import json
import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import typer

from keyanon_core.errors import PictureError
from keyanon_core.faces import Face, FaceModels
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import Prior

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
Cell = float | str


def photographs(folder: Path, limit: int | None = None) -> list[Path]:
    """The pictures of a folder in order of name."""
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES][:limit]


def read(path: Path) -> Pixels:
    """(H, W, 3) uint8. Raises PictureError."""
    return decode_picture(path.read_bytes(), max_pixels=AnonymizeSettings().max_pixels)


def crops(path: Path, prior: Prior, models: FaceModels) -> Iterator[Crop]:
    """Of every face of a photograph. Raises PictureError."""
    pixels = read(path)
    faces = models.detector.detect(pixels)
    for face in align_faces(pixels, faces, models.parser, AnonymizeSettings().regions, prior):
        yield face.crop


def only_face(pixels: Pixels, models: FaceModels) -> Face:
    """Raises PictureError, its reason to be counted, for a picture with none or several."""
    faces = models.detector.detect(pixels)
    if len(faces) != 1:
        raise PictureError("several faces" if faces else "no face", f"{len(faces)} faces were found")
    return faces[0]


def groups_by_id(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Out of CSV files with columns id and group."""
    groups = defaultdict[str, list[str]](list)
    for path in paths:
        with path.open(newline="") as lines:
            for row in csv.DictReader(lines):
                groups[row["id"]].append(row["group"])
    return groups


def when_and_where() -> dict[str, str]:
    """For the line above tables: date and machine."""
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {threads}, torch {torch.__version__}",
    }


def print_facts(facts: Mapping[str, Any]) -> None:
    """In one line."""
    typer.echo(" · ".join(f"{name} {value}" for name, value in facts.items()))


def print_table(rows: Sequence[Sequence[Cell]]) -> None:
    """As Markdown, the first row being its head."""
    for index, row in enumerate(rows):
        ruled = "\n|" + "---|" * len(row) if index == 0 else ""
        typer.echo(f"| {' | '.join(map(_shown, row))} |{ruled}")
    typer.echo("")


def print_records(records: Sequence[Mapping[str, Cell]]) -> None:
    """A table with the first one's names as its head; what a later one lacks stays empty."""
    columns = list(records[0])
    print_table([columns, *([record.get(column, "") for column in columns] for record in records)])


def print_json(value: Any) -> None:
    """JSON has no NaN: null instead."""
    typer.echo(json.dumps(_without_nan(value)))


def _shown(value: Cell) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "-"
    return f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
