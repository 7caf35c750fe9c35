"""The settings of one evaluation."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from jobs.config import AnonymizeConfig
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput
from jobs.storage.place import Place, holds
from keyanon_core.evaluation import inception, perceptual
from keyanon_core.faces.recognizers import EMBEDDED, RecognizerChoice, chosen_recognizers
from keyanon_core.published_weights import PublishedWeights
from keystore.crypto.canonical import canonical_json

DEFAULT_REHEARSED: Final = 64  # pictures
# A file of subjects is in the digest of the sources, one of groups among the listings.
_NEUTRAL: Final = frozenset(
    {"photos", "image_root", "output", "endpoint_url", "workers", "subjects", "subjects_of_gone", "groups"}
)
_OF_INPUT: Final = frozenset(InputConfig.model_fields) - {"output", "photos", "endpoint_url"}


class EvaluateConfig(InputConfig):
    """photos: the sources. output: a directory for the report, which shows people in clear."""

    output: Path
    run: Place | None = Field(default=None, description="output of a run, whose pictures are measured")
    anonymized: Place | None = Field(default=None, description="folder of any tool's pictures, in the place of a run")
    recovered: Place | None = Field(default=None, description="folder of recovered pictures, of the same names")
    subjects: Path | None = Field(default=None, description="CSV of file,subject beside a folder: whom pictures show")
    subjects_of_gone: bool = Field(default=False, description="it may name pictures that are there no more")
    groups: Path | None = Field(default=None, description="CSV of file and traits such as gender, see `read_groups`")
    limit: int | None = Field(default=None, ge=1, description="pictures, evenly spread; all by default")
    rehearsed: int = Field(
        default=DEFAULT_REHEARSED, ge=0, description="pictures that the run's settings anonymize anew, see `Rehearsal`"
    )
    face_models: Literal["embedded", "facexlib"] = "embedded"
    face_weights: Path | None = None
    recognizers: tuple[str, ...] = Field(
        default=(), description="NAME=FILE[:PRESET], beside the embedded one and its mirrored view"
    )
    inception: Path | None = Field(default=None, description="weights for FID and KID, see `Inception`")
    lpips: Path | None = Field(default=None, description="weights for LPIPS, see `Lpips`")
    prior: str | None = Field(default=None, description="where the run's prior is now; None: as the run had it")
    workers: int = Field(default=0, ge=0, description="processes; 0: as many as there are CPUs")

    @model_validator(mode="after")
    def _one_thing_is_measured(self) -> Self:
        if (self.run is None) == (self.anonymized is None):
            raise ValueError("give either the output of a run or a folder of anonymized pictures, and not both")
        return self

    @model_validator(mode="after")
    def _is_apart(self) -> Self:
        for name in ("run", "anonymized", "recovered"):
            place = getattr(self, name)
            if place is not None and (holds(place, self.output) or holds(self.output, place)):
                raise ValueError(
                    f"output {self.output} and {name} {place} overlap; a report shows sources: give it its own place"
                )
        return self

    @classmethod
    def of_run(cls, recorded: AnonymizeConfig, changes: dict[str, Any]) -> Self:
        """The pictures of a run, read as the run read them."""
        read = {name: getattr(recorded, name) for name in _OF_INPUT}
        models = {"face_models": recorded.face_models, "face_weights": recorded.face_weights}
        given = {name: value for name, value in changes.items() if value is not None}
        # The run has held its own file against its pictures, some of which may be gone or elsewhere now.
        people = {"subjects": recorded.subjects, "subjects_of_gone": "subjects" not in given}
        return cls.load(None, {"photos": recorded.photos, **read, **models, **people, **given})

    def given(self) -> GivenInput:
        """Where it is said whom the pictures show."""
        return GivenInput(subjects=self.subjects, of_gone=self.subjects_of_gone)

    def recognizer_choices(self) -> list[RecognizerChoice]:
        """Those beside that of the face models, each holding on to its file as it is now. Raises FaceModelError."""
        return [one.pinned() for one in chosen_recognizers(self.recognizers) if one.name != EMBEDDED]

    def weight_files(self) -> dict[str, tuple[Path, PublishedWeights]]:
        """Files of the user's that take the place of a download, by the network that they are of, with what they have to be."""
        given = {"inception": (self.inception, inception.WEIGHTS), "lpips": (self.lpips, perceptual.WEIGHTS)}
        return {name: (file.absolute(), weights) for name, (file, weights) in given.items() if file is not None}

    def digest(self, listings: Mapping[str, str]) -> str:
        """sha256 over what decides the figures: a stopped evaluation goes on only if it is the same. listings: digests of the
        source, of the other pictures and of the file of groups."""
        meant = {name: value for name, value in self.model_dump(mode="json").items() if name not in _NEUTRAL}
        recognizers = [one.expected for one in self.recognizer_choices()]
        return hashlib.sha256(
            canonical_json({**meant, "listings": dict(listings), "recognizers": recognizers})
        ).hexdigest()
