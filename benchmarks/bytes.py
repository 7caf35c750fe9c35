"""What a published picture costs and keeps, by the format it is published in.

    python benchmarks/bytes.py --photos DIR [--limit N] [--formats same,png,webp,jpeg] [--kinds jpeg,png,webp]

The faces of each photograph are anonymized by the job's own path, at few steps and without the gate, which changes nothing here.
For each kind of source (the photographs as they are, or stored anew as PNG or WebP) and each output format it prints

- bytes: stored bytes over source bytes of all pictures together, and of the median picture;
- image data: the same without what a source holds beside its picture (EXIF, thumbnails, XMP), which never gets out;
- outside: pixels outside every mask that look as in the source once both are decoded, in percent of those outside;
- face: dB between the faces as the prior made them and as they are stored, peak to peak 255, median and worst picture;
- ms: CPU time of encoding, with everything that is checked on the way.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from shared import photographs

from keyanon_core.faces import PictureMask, load_face_models
from keyanon_core.formats.jpeg_header import CoefficientsError, read_header
from keyanon_core.formats.opening import open_source
from keyanon_core.formats.published import Pixels, published_pixels
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import load_prior

SETTINGS = {"steps": 6, "fidelity": "lossless", "gate_threshold": 0.0, "check_every": 10**9}
MAX_PIXELS = 10**8


@dataclass(frozen=True)
class Figures:
    """Of one picture. pixels_kept: share; face_psnr: dB, infinite where nothing is lost."""

    source_bytes: int
    source_data_bytes: int
    stored_bytes: int
    pixels_kept: float
    face_psnr: float
    milliseconds: float


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs.")],
    limit: Annotated[int, typer.Option(help="Photographs at most.")] = 1000,
    formats: Annotated[str, typer.Option(help="Output formats, separated by commas.")] = "same,png,webp,jpeg",
    kinds: Annotated[str, typer.Option(help="Kinds of sources: as-is, png, webp, webp-lossy.")] = "as-is",
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    paths = photographs(photos, limit)
    anonymized = list(_anonymized(paths))
    typer.echo(f"{len(anonymized)} photographs with a face of {len(paths)}")
    typer.echo("| source | format | bytes | median | image data | outside, % | face, dB | worst | ms |\n|" + "---|" * 9)
    for kind in kinds.split(","):
        for format in formats.split(","):
            figures = [_measure(_source(encoded, kind), result, masks, format) for encoded, result, masks in anonymized]
            typer.echo(f"| {kind} | {format} | {_row(figures)} |")


def _anonymized(paths: list[Path]) -> Iterator[tuple[bytes, Pixels, list[PictureMask]]]:
    """Encoded sources, results of the numbers in their files (H, W, 3) uint8, and masks of the faces."""
    prior, models = load_prior("embedded"), load_face_models("embedded")
    anonymizer = PictureAnonymizer(prior, models, AnonymizeSettings(**SETTINGS, output_format="png"))  # type: ignore[arg-type]
    for path in paths:
        # the numbers of the file, as `same` takes them, so that every format is given the same result
        encoded = path.read_bytes()
        plain = encode_picture(open_source(encoded, "same", 95, MAX_PIXELS).pixels, "png")
        (result,) = anonymizer([PictureTask(path.name, plain)])
        if result.encoded is not None and result.key is not None:
            yield encoded, decode_picture(result.encoded), [face.mask for face in result.key.faces]


def _source(encoded: bytes, kind: str) -> bytes:
    if kind == "as-is":
        return encoded
    pixels, profile, _ = published_pixels(encoded)
    if kind == "webp-lossy":
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "WEBP", quality=85, icc_profile=profile)
        return out.getvalue()
    if kind == "png":
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", icc_profile=profile)
        return out.getvalue()
    return encode_picture(pixels, kind, profile=profile)


def _measure(encoded: bytes, result: Pixels, masks: list[PictureMask], format: str) -> Figures:
    source = open_source(encoded, format, 95, MAX_PIXELS)
    inside = np.any([mask.full(result.shape) for mask in masks], axis=0)
    meant = source.pixels.copy()
    meant[inside] = result[inside]
    started = time.process_time()
    published = source.publish(meant, masks)
    elapsed = time.process_time() - started
    # both as they look: a profile that is converted changes no look, only numbers
    before, after = decode_picture(encoded), decode_picture(published.encoded)
    kept = float((before == after).all(axis=2)[~inside].mean())
    square = float(np.square(published.shown[inside].astype(float) - meant[inside]).mean())
    psnr = 10 * np.log10(255**2 / square) if square else np.inf
    return Figures(len(encoded), _data_bytes(encoded), len(published.encoded), kept, psnr, 1000 * elapsed)


def _data_bytes(encoded: bytes) -> int:
    """Bytes of what a JPEG needs to show its picture; of other files, all."""
    try:
        return len(read_header(encoded).entropy_stream)
    except CoefficientsError:
        return len(encoded)


def _row(figures: list[Figures]) -> str:
    sources, data, stored = (
        np.array([getattr(f, name) for f in figures]) for name in ("source_bytes", "source_data_bytes", "stored_bytes")
    )
    psnr = [f.face_psnr for f in figures]
    numbers = [
        stored.sum() / sources.sum(),
        np.median(stored / sources),
        stored.sum() / data.sum(),
        100 * np.mean([f.pixels_kept for f in figures]),
        np.median(psnr),
        min(psnr),
        np.mean([f.milliseconds for f in figures]),
    ]
    return " | ".join(f"{number:.{digits}f}" for number, digits in zip(numbers, (2, 2, 2, 1, 1, 1, 0), strict=True))


if __name__ == "__main__":
    typer.run(main)
