"""What attacks on a run start from: some of its published pictures beside their sources, and the faces in them.

Nothing here opens a keystore. Masks and crops are found again in the sources, as the run found them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from jobs.blocks import ENCODED, GIVEN, ID, SUBJECT
from jobs.config import AnonymizeConfig
from jobs.errors import JobError
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import OutputError, Row, read_rows
from jobs.output.row_sets import RowSet
from jobs.sources.again import IS_ANOTHER, changed_since, spread
from jobs.sources.source import Source, open_source
from jobs.storage.store import Store
from keyanon_core.errors import KeyanonError, SidecarError
from keyanon_core.evaluation.published import PublishedPicture
from keyanon_core.evaluation.trial import MIN_FACES, Stack, Trial, make_trial
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face, Pixels, mirrored
from keyanon_core.faces.given import GivenFaces, choose_faces, is_kept
from keyanon_core.formats import opening
from keyanon_core.formats.published import published_pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.crops import AlignedFace, align_faces, cut_crop
from keyanon_core.pictures.stored import known_latent, stored_latent
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, SidecarFace, encode_surroundings, header_numbers
from keyanon_core.transforms import MIN_COORDINATES

PICTURE_BYTES: Final = "bytes of the picture"
SIDECAR_BYTES: Final = "bytes of the sidecar"
READ_FOR_PEOPLE: Final = 2  # times the pictures that are asked for, of which one of each person is taken

Note = Callable[[str], None]


class AttackError(JobError):
    """A run has too little for attacks to be tried on."""


@dataclass(frozen=True)
class Evidence:
    """pictures: those that could be used. left_out: the others by their ids, with the reason."""

    pictures: tuple[PublishedPicture, ...]
    left_out: dict[str, str]


def gather(
    config: AnonymizeConfig,
    store: Store,
    models: FaceModels,
    prior: Prior,
    faces: int,
    note: Note,
    *,
    elsewhere: bool = False,
) -> Evidence:
    """Up to so many anonymized pictures of a run, evenly spread over its rows, beside their sources; where the run knows whom
    they show, one of each person.

    elsewhere: as in `changed_since`. Raises OutputError, SourceError (also where all sources have changed),
    MachineError; AttackError for a run without an anonymized picture.
    """
    subjects = config.subjects is not None or config.subject_column is not None
    rows = _rows(store, faces * (READ_FOR_PEOPLE if subjects else 1))
    if not rows:
        raise AttackError(f"{store} has no anonymized picture; there is nothing to attack")
    sources, changed = _sources(open_source(config, config.given(), clips=False), rows, elsewhere)
    if subjects:
        rows = _one_of_each(rows, {name: one.subject for name, one in sources.items()}, faces)
    published = PublishedPictures(store)
    pictures, left_out = [], {}
    for at, row in enumerate(rows, 1):
        note(f"reading picture {at} of {len(rows)}")
        try:
            if row.image_id in changed:
                raise OutputError(IS_ANOTHER)
            if row.image_id not in sources:
                raise OutputError("its source is not in the input any more")
            pictures.append(_picture(row, sources[row.image_id], published, config, models, prior))
        except KeyanonError as error:
            left_out[row.image_id] = str(error)
    return Evidence(tuple(pictures), left_out)


def trial_of(
    evidence: Evidence, config: AnonymizeConfig, models: FaceModels, prior: Prior, rng: np.random.Generator, note: Note
) -> Trial:
    """The largest face of each picture, as published. Raises AttackError for fewer than MIN_FACES."""
    chosen = _alike([_attackable(at, picture, prior) for at, picture in enumerate(evidence.pictures)])
    if len(chosen) < MIN_FACES:
        raise AttackError(
            f"{len(chosen)} of {len(evidence.pictures)} pictures have a face that can be attacked, and at least {MIN_FACES} are "
            "needed: with fewer nothing can be told from chance; give a run with more pictures, or more --faces"
        )
    alone = chosen[0].alone
    settings = config.settings()
    return make_trial(
        prior,
        models.recognizer,
        np.stack([one.face.crop.values for one in chosen]),
        np.stack([one.face.crop.mask for one in chosen]),
        settings.procedure_at("image" if alone else "latent"),
        rng,
        bits=settings.sidecar_bits,
        published=np.stack([one.published for one in chosen]),
        read_back=np.stack([one.read_back for one in chosen]),
        pictures=evidence.pictures,
        origins=[one.picture for one in chosen],
        carried=[bool(config.payload_share) and evidence.pictures[one.picture].subject is not None for one in chosen],
        note=note,
    )


def _rows(store: Store, count: int) -> list[Row]:
    """Of anonymized pictures, evenly spread."""
    total = sum(row.status == "anonymized" for row in read_rows(store))
    wanted = set(spread(np.arange(total), count).tolist())
    anonymized = (row for row in read_rows(store) if row.status == "anonymized")
    return [row for at, row in enumerate(anonymized) if at in wanted]


def _one_of_each(rows: Sequence[Row], subjects: Mapping[str, str | None], count: int) -> list[Row]:
    """At most so many, evenly spread, no two of one subject; pictures without a subject are each another person's."""
    first: dict[str, Row] = {}
    for row in rows:
        subject = subjects.get(row.image_id)
        first.setdefault(f"id {row.image_id}" if subject is None else f"subject {subject}", row)
    found = list(first.values())
    return [found[at] for at in spread(np.arange(len(found)), count).tolist()]


@dataclass(frozen=True)
class _Source:
    """A picture's file, what the user says of the faces in it, and whom it is said to show."""

    encoded: bytes = field(repr=False)
    given: str | None
    subject: str | None


def _sources(source: Source, rows: Sequence[Row], elsewhere: bool) -> tuple[dict[str, _Source], set[str]]:
    """By id, without those that are not there or can not be read; and the ids of those that have changed since the run. Raises
    SourceError.
    """
    places = source.ids.places()
    found = places.find(pa.array([row.image_id for row in rows], pa.string()))
    there = [row for row, place in zip(rows, found.tolist(), strict=True) if place >= 0]
    positions = places.positions(found[found >= 0], np.zeros(len(there), np.int64))
    changed = changed_since(source, positions, [row.source_version for row in there], elsewhere=elsewhere)
    others = np.ones(source.total, np.bool_)
    others[positions[~changed]] = False
    left = int((~changed).sum())
    units = source.units(RowSet.of(others), lambda rest: max(min(rest, left), 1)) if left else ()
    read: dict[str, _Source] = {}
    for table in (table for unit in units for table in unit.read()):
        columns = [table.column(name).to_pylist() for name in (ID, ENCODED, GIVEN, SUBJECT)]
        read |= {
            name: _Source(encoded, *said) for name, encoded, *said in zip(*columns, strict=True) if encoded is not None
        }
    return read, {row.image_id for row, is_ in zip(there, changed.tolist(), strict=True) if is_}


def _picture(
    row: Row,
    read: _Source,
    published: PublishedPictures,
    config: AnonymizeConfig,
    models: FaceModels,
    prior: Prior,
) -> PublishedPicture:
    # In the numbers that the published file holds: with a profile that stays these are not those of the screen.
    source = opening.open_source(read.encoded, config.output_format, config.jpeg_quality, config.max_pixels).pixels
    picture = published.picture(row)
    shown = published_pixels(picture, config.max_pixels)[0]
    stored = None if row.permanent or row.record_id is None else published.sidecar(row)
    said = GivenFaces() if read.given is None else GivenFaces.from_json(read.given)
    chosen = choose_faces(decode_picture(read.encoded, config.max_pixels), models.detector, said, config.faces)
    aligned = align_faces(
        source,
        chosen.faces,
        models.parser,
        config.regions,
        prior,
        aligned_crop=config.faces == "aligned",
        inner=row.fidelity == "image",
    )
    searched = [face for face in _searched(source, models) if not is_kept(face, said.keep, chosen.kept)]
    sidecar = None if stored is None else Sidecar.from_bytes(stored)
    fields = {PICTURE_BYTES: len(picture), **published.numbers(row), **_numbers(sidecar, stored)}
    return PublishedPicture(
        row.image_id,
        source,
        shown,
        sidecar,
        tuple(aligned),
        tuple(searched),
        row.faces,
        {name: float(value) for name, value in fields.items() if math.isfinite(value)},
        read.subject,
    )


def _searched(source: Pixels, models: FaceModels) -> list[Face]:
    """What another search sees: `look_again`, of the mirrored picture."""
    found = models.detector.look_again(np.ascontiguousarray(source[:, ::-1]))
    faces = []
    for face in found:
        box, landmarks = mirrored(np.array(face.box).reshape(2, 2), face.landmarks, source.shape[1])
        x0, y0, x1, y1 = box.ravel().tolist()
        faces.append(Face((x0, y0, x1, y1), landmarks, face.score))
    return faces


def _numbers(sidecar: Sidecar | None, stored: bytes | None) -> dict[str, int]:
    if sidecar is None or stored is None:
        return {}
    parts = {
        SIDECAR_BYTES: len(stored),
        **{f"the sidecar's {name}": one for name, one in header_numbers(stored).items()},
    }
    for name in ("surroundings", "codes", "source"):
        held: list[Any] = [getattr(face, name) for face in sidecar.faces]
        if any(one is not None for one in held):
            parts[f"bytes of the {name}"] = sum(len(one or b"") for one in held)
    return parts


@dataclass(frozen=True)
class _Face:
    """picture: its number. alone: recovery has the picture only. published, read_back: (C, h, w) float64."""

    picture: int
    face: AlignedFace
    alone: bool
    published: Stack
    read_back: Stack


def _attackable(at: int, picture: PublishedPicture, prior: Prior) -> _Face | None:
    """The largest face of a picture; None where none can be read as the run wrote it."""
    usable = [
        (one, number)
        for number, one in enumerate(picture.faces)
        if prior.geometry.coordinates(one.crop.mask) >= MIN_COORDINATES
    ]
    if not usable or picture.shown.shape != picture.source.shape:
        return None
    face, number = max(usable, key=lambda pair: pair[0].mask.count)
    stored = _stored(picture, number)
    alone = picture.sidecar is not None and picture.sidecar.fidelity == "image"
    others = [other.mask for other in picture.faces if other is not face]
    crop = cut_crop(picture.shown, face.affine, face.mask, others, prior.side, inner=alone)
    read_back = _latent(prior, crop.values, face.crop.mask)
    if stored is None:
        return _Face(at, face, alone, read_back, read_back)
    levels = 0 if picture.sidecar is None else picture.sidecar.levels
    try:
        return _Face(at, face, alone, stored_latent(prior, stored, face.crop.mask, levels), read_back)
    except SidecarError:  # another mask than ours made it: the run saw the face otherwise
        return None


def _stored(picture: PublishedPicture, number: int) -> SidecarFace | None:
    if picture.sidecar is None or number >= len(picture.sidecar.faces):
        return None
    face = picture.sidecar.faces[number]
    return None if face.codes is None and face.latent is None else face


def _latent(prior: Prior, crop: Stack, mask: npt.NDArray[np.bool_]) -> Stack:
    masked = torch.from_numpy(mask)[None, None]
    known = known_latent(prior, [encode_surroundings(crop, mask)], masked)
    inside = prior.latent_mask(masked)
    return np.asarray((inside * prior.encode(torch.from_numpy(crop)[None]) + known)[0].cpu().numpy())


def _alike(faces: Sequence[_Face | None]) -> list[_Face]:
    """Those of the way back that most have: pictures alone, or sidecars."""
    found = [face for face in faces if face is not None]
    alone = sum(face.alone for face in found) * 2 > len(found)
    return [face for face in found if face.alone == alone]
