"""How well faces come back: `exact` and the paper's method on the same aligned crops, and every fidelity on the same photographs.

    python benchmarks/recovery.py --photos DIR [--limit 40] [--prior embedded] [--steps 0] [--device cpu]
        [--precision auto] [--json] [--tables crops,bits,photographs,lossless,jpeg]

Prints medians over all faces found. PSNR is inside the mask, against the source crop. The first table stores the crop itself. The
second shows what a sidecar's bytes buy, beside the alternative that anonymizes nothing: a blurred face and its source, encoded
by WebP and encrypted. The third shows what a run publishes: the photograph with the face warped back and rounded to 8 bits
(`image`), the sidecar (`latent`), and whichever of them the run takes (`auto`). What is read back from a photograph has gone
through two resamplings that the 8-bit crop has not. The last shows what is left of `image` in a JPEG, which the job refuses.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from shared import Cell, crops, photographs, print_facts, print_json, print_records, when_and_where

from keyanon_core.device import usable_device
from keyanon_core.errors import ConvergenceError
from keyanon_core.evaluation import STORAGES, RecoveryFigures, measure_recovery, measure_sidecar
from keyanon_core.evaluation.baselines import encrypted_crop
from keyanon_core.evaluation.recovery import psnr
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import Crop, cut_crop
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import CONDITIONING, Procedure

EXACT = (("exact", "rotation", "none"), ("exact", "rotation", "ddim"))
TABLES = ("crops", "bits", "photographs", "lossless", "jpeg")
JPEG_QUALITIES = (95, 85, 75)  # of Pillow, colour not subsampled
BITS = (10.0, 11.0, 11.5, 12.0, 13.0, 14.0)
ENCRYPTED_QUALITIES = (80, 95, 100)  # of WebP
BATCH = 8  # faces measured together
Row = dict[str, Cell]
Pixels = npt.NDArray[np.uint8]


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    limit: Annotated[int, typer.Option(help="Photographs at most, in order of name.")] = 40,
    prior: Annotated[str, typer.Option(help="embedded, a directory, or a hub id.")] = "embedded",
    steps: Annotated[int, typer.Option(help="DDIM steps one way; 0 takes each procedure's own.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Of the coarse steps: float32, tf32, bfloat16, auto.")] = "auto",
    tables: Annotated[str, typer.Option(help="Which of the tables, with commas.")] = ",".join(TABLES),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of the table.")] = False,
) -> None:
    """Measure and print."""
    loaded, models = load_prior(prior, usable_device(device), precision), load_face_models("embedded")
    paths = photographs(photos, limit)
    found = [crop for path in paths for crop in crops(path, loaded, models)]
    if not found:
        raise typer.BadParameter(f"no face found in {len(paths)} pictures of {photos}")
    if unknown := set(tables.split(",")) - set(TABLES):
        raise typer.BadParameter(f"no table is called {min(unknown)!r}; choose from {', '.join(TABLES)}")
    wanted: dict[str, Callable[[], list[Row]]] = {
        "crops": lambda: [_measure(loaded, found, procedure) for procedure in _procedures(loaded, steps)],
        "bits": lambda: [
            *(_with_bits(loaded, found, Procedure(steps=steps), bits) for bits in BITS),
            *(_encrypted(found, quality) for quality in ENCRYPTED_QUALITIES),
        ],
        "photographs": lambda: [
            _photographed(paths, loaded, models, steps, name) for name in ("image", "latent", "auto")
        ],
        "lossless": lambda: [_lossless(paths, loaded, models, steps)],
        "jpeg": lambda: _jpegs(paths, loaded, models, steps),
    }
    made = {name: make() for name, make in wanted.items() if name in tables.split(",")}
    facts = {
        **when_and_where(),
        "prior": f"{loaded.name} {loaded.digest[:16]}",
        "coarse steps in": f"{loaded.networks.precision} on {loaded.networks.device}",
        "photographs": len(paths),
        "faces": len(found),
    }
    if as_json:
        print_json({**facts, **made})
        return
    print_facts(facts)
    for table in made.values():
        print_records(table)


def _procedures(prior: Prior, steps: int) -> list[Procedure]:
    """`exact`, and that of the paper's methods which is for such a prior."""
    of_paper = next(method for method, conditioning in CONDITIONING.items() if conditioning == prior.conditioning)
    return [Procedure(*names, steps) for names in (*EXACT, (of_paper, "sign", "ddim"))]


def _measure(prior: Prior, crops: list[Crop], procedure: Procedure) -> Row:
    """Medians of one procedure over all crops, BATCH at a time."""
    parts = [measure_recovery(prior, values, masks, procedure) for values, masks in _batches(crops)]
    recovered = {name: _all(parts, lambda part, name=name: part.recovered_psnr[name]) for name in STORAGES}
    solver = [step for part in parts for step in part.solver]
    nearer = _all(parts, lambda part: part.wrong_key_psnr) > _all(parts, lambda part: part.anonymized_psnr)
    return {
        "procedure": str(procedure),
        "NFE anonymize": parts[0].nfe_anonymize,
        "NFE recover": float(np.median([part.nfe_recover for part in parts])),
        "NFE recover, most": max(part.nfe_recover for part in parts),
        **{f"{name}, dB": float(np.median(values)) for name, values in recovered.items()},
        **{f"{name}, min dB": float(values.min()) for name, values in recovered.items()},
        "anonymized, dB": float(np.median(_all(parts, lambda part: part.anonymized_psnr))),
        "wrong key, dB": float(np.median(_all(parts, lambda part: part.wrong_key_psnr))),
        "wrong key nearer than anonymized": float(nearer.mean()),
        "rms of zT": float(np.median(_all(parts, lambda part: part.noise_rms))),
        "worst residual": max((float(step.residual) for step in solver), default=0.0),
        "most iterations": max((step.iterations for step in solver), default=0),
    }


def _batches(crops: list[Crop]) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    for start in range(0, len(crops), BATCH):
        batch = crops[start : start + BATCH]
        yield np.stack([crop.values for crop in batch]), np.stack([crop.mask for crop in batch])


def _with_bits(prior: Prior, crops: list[Crop], procedure: Procedure, bits: float) -> Row:
    parts = [measure_sidecar(prior, values, masks, procedure, bits) for values, masks in _batches(crops)]
    sizes, psnrs = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _priced(f"sidecar of {bits:g} bits", sizes, psnrs)


def _encrypted(crops: list[Crop], quality: int) -> Row:
    """The source's crop, grey outside the mask, as WebP of this quality, encrypted."""
    sizes, psnrs = [], []
    for crop in crops:
        pixels = np.rint((crop.values.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
        size, back = encrypted_crop(pixels, crop.mask, quality)
        sizes.append(size)
        shown = back.transpose(2, 0, 1) / 127.5 - 1
        psnrs.append(float(psnr(shown[None], crop.values[None], crop.mask[None])[0]))
    return _priced(f"encrypted crop, WebP {quality}", np.array(sizes), np.array(psnrs))


def _priced(what: str, sizes: npt.NDArray[np.int64], psnrs: npt.NDArray[np.float64]) -> Row:
    kilobytes = float(np.median(sizes)) / 1000
    return {
        "stored": what,
        "KB a face": kilobytes,
        "KB, most": float(sizes.max()) / 1000,
        "dB": float(np.median(psnrs)),
        "min dB": float(psnrs.min()),
        "dB per KB": float(np.median(psnrs)) / kilobytes,
    }


def _all(parts: list[RecoveryFigures], pick: object) -> npt.NDArray[np.float64]:
    return np.concatenate([pick(part) for part in parts])  # type: ignore[operator]


def _photographed(paths: list[Path], prior: Prior, models: FaceModels, steps: int, fidelity: str) -> Row:
    """The job's own path over whole photographs, every face compared in its crop and in the photograph's own pixels."""
    settings = AnonymizeSettings(fidelity=fidelity, steps=steps, output_format="png")
    anonymizer, recoverer = PictureAnonymizer(prior, models, settings), PictureRecoverer(prior)
    crops: list[float] = []
    pictures: list[float] = []
    anonymized: list[float] = []
    unsolved, alone = 0, 0
    for path in paths:
        encoded = path.read_bytes()
        (result,) = anonymizer([PictureTask(path.name, encoded)])
        if result.key is None or result.encoded is None or result.sidecar is None:
            continue
        alone += result.key.fidelity == "image"
        source, published = (decode_picture(one, settings.max_pixels) for one in (encoded, result.encoded))
        try:
            recovered = recoverer.recover(result.encoded, result.sidecar, result.key)
        except ConvergenceError:
            unsolved += len(result.key.faces)
            continue
        crops += _crop_psnrs(recovered, result.key, source, prior)
        for face in result.key.faces:
            inside = face.mask.full(source.shape)
            for shown, values in ((recovered.pixels, pictures), (published, anonymized)):
                error = np.square(shown[inside].astype(np.float64) - source[inside]).mean()
                values.append(float(10 * np.log10(255**2 / error)))
    return {
        "fidelity": fidelity,
        "faces": len(crops),
        "not converged": unsolved,
        "pictures without sidecar latents": alone,
        **_spread("crop", crops),
        **_spread("photograph's pixels", pictures),
        "anonymized, photograph's pixels, dB": float(np.median(anonymized)),
    }


def _crop_psnrs(recovered: RecoveredPicture, key: PictureKey, source: Pixels, prior: Prior) -> list[float]:
    """dB of each recovered crop against the source's, cut in the same way."""
    masks = [face.mask for face in key.faces]
    found = []
    for index, (face, crop) in enumerate(zip(key.faces, recovered.crops, strict=True)):
        affine, others = np.reshape(face.affine, (2, 3)), masks[:index] + masks[index + 1 :]
        cut = cut_crop(source, affine, face.mask, others, prior.side, inner=key.fidelity == "image")
        found.append(float(psnr(crop[None], cut.values[None], cut.mask[None])[0]))
    return found


def _jpegs(paths: list[Path], prior: Prior, models: FaceModels, steps: int) -> list[Row]:
    """Faces made at fidelity `image`, recovered from JPEG copies of the photograph."""
    settings = AnonymizeSettings(fidelity="image", steps=steps, output_format="png")
    anonymizer, recoverer = PictureAnonymizer(prior, models, settings), PictureRecoverer(prior)
    crops: dict[int, list[float]] = {quality: [] for quality in JPEG_QUALITIES}
    unsolved = dict.fromkeys(JPEG_QUALITIES, 0)
    for path in paths:
        encoded = path.read_bytes()
        (result,) = anonymizer([PictureTask(path.name, encoded)])
        if result.key is None or result.encoded is None or result.sidecar is None:
            continue
        source, published = (decode_picture(one, settings.max_pixels) for one in (encoded, result.encoded))
        for quality in JPEG_QUALITIES:
            copy = encode_picture(published, "jpeg", quality)
            try:
                recovered = recoverer.recover(copy, result.sidecar, result.key)
            except ConvergenceError:
                unsolved[quality] += len(result.key.faces)
                continue
            crops[quality] += _crop_psnrs(recovered, result.key, source, prior)
    return [
        {
            "JPEG quality": quality,
            "faces": len(crops[quality]),
            "not converged": unsolved[quality],
            **(_spread("crop", crops[quality]) if crops[quality] else {}),
        }
        for quality in JPEG_QUALITIES
    ]


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {
        f"{name}, {what} dB": float(pick(values)) for what, pick in (("median", np.median), ("min", min), ("max", max))
    }


def _lossless(paths: list[Path], prior: Prior, models: FaceModels, steps: int) -> Row:
    """The job's own path over whole photographs, at fidelity `lossless`: how many came back pixel for pixel."""
    anonymizer = PictureAnonymizer(prior, models, AnonymizeSettings(fidelity="lossless", steps=steps))
    recoverer, anonymized, exact, keys = PictureRecoverer(None), 0, 0, 0.0
    for path in paths:
        encoded = path.read_bytes()
        (result,) = anonymizer([PictureTask(path.name, encoded)])
        if result.key is None or result.encoded is None or result.sidecar is None:
            continue
        source = decode_picture(encoded, AnonymizeSettings().max_pixels, convert=False)  # profiles stay with pictures
        recovered = recoverer.recover(result.encoded, result.sidecar, result.key)
        anonymized += 1
        exact += int(np.array_equal(recovered.pixels, source) and recovered.exact)
        keys += result.metrics["attempts"]
    return {
        "fidelity": "lossless",
        "anonymized": anonymized,
        "pixel-exact": exact,
        "keys tried per photograph": keys / max(anonymized, 1),
    }


if __name__ == "__main__":
    typer.run(main)
