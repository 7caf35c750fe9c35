"""The settings of the paper's protocol."""

from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.evaluate.measuring import Device
from jobs.evaluate.paper.stage import PaperModelChoice
from jobs.sources.config import DEFAULT_MAX_FILE_BYTES
from jobs.storage.place import Place, holds
from keyanon_core.errors import FaceModelError
from keyanon_core.faces.recognizers import EMBEDDED, RecognizerChoice
from keyanon_core.imaging import DEFAULT_MAX_PIXELS
from keyanon_core.procedure import PAPER_STEPS

DEGRADED_PICTURES: Final = 1_000  # pictures that the protocol recovers from JPEG copies, and with wrong keys


class PaperConfig(BaseModel):
    """output: a directory for the report, which shows people in clear. Everything else is where a user has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    output: Path
    prior: Path
    face_weights: Path
    lfw: Place | None = None
    lfw_pairs: tuple[Path, ...] = ()
    celeba_hq: Place | None = None
    celeba_hq_list: Path | None = Field(default=None, description="names of files; None: all, by their numbers")
    recognizers: tuple[str, ...] = Field(default=(), description="NAME=FILE[:PRESET], beside the embedded one")
    inception: Path | None = None
    limit: int | None = Field(
        default=None, ge=1, description="pictures of each data set, evenly spread; all by default"
    )
    degraded: int = Field(default=DEGRADED_PICTURES, ge=0, description="pictures of the first data set that is there")
    steps: int = Field(default=PAPER_STEPS, ge=1)
    workers: int = Field(default=0, ge=0, description="processes; 0: one for each GPU, or each CPU")
    device: Device = "auto"
    endpoint_url: str | None = None
    max_pixels: int = Field(default=DEFAULT_MAX_PIXELS, ge=1)
    max_file_bytes: int = Field(default=DEFAULT_MAX_FILE_BYTES, ge=1)

    @model_validator(mode="after")
    def _is_apart(self) -> Self:
        for name in ("prior", "face_weights", "lfw", "celeba_hq"):
            place = getattr(self, name)
            if place is not None and (holds(place, self.output) or holds(self.output, place)):
                raise ValueError(f"output {self.output} and {name} {place} overlap; give the report its own place")
        return self

    def models(self) -> PaperModelChoice:
        """Each recognizer holding on to its file as it is now. Raises FaceModelError, also for a name given twice."""
        choices = [RecognizerChoice.parse(text) for text in dict.fromkeys([EMBEDDED, *self.recognizers])]
        names = [one.name for one in choices]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FaceModelError(f"two recognizers are called {twice[0]}; give one of them another name")
        pinned = [one.pinned() for one in choices]
        return PaperModelChoice(self.prior, self.face_weights, pinned, self.inception, self.steps)

    def meant(self) -> dict[str, Any]:
        """What decides the figures, beside the models and the pictures."""
        return self.model_dump(mode="json", include={"limit", "degraded", "steps", "max_pixels", "max_file_bytes"})
