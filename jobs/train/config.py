"""The configuration of `keyanon train-prior`, loadable from YAML."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.run.usable_cpus import usable_cpus
from jobs.sources.config import InputConfig
from jobs.storage.place import is_uri
from keyanon_core.priors.declaration import MIN_TEMPERATURE, Conditioning
from keyanon_core.training.settings import (
    Augmentation,
    Optimization,
    Prediction,
    PriorSettings,
    TrainingSettings,
)
from keystore.crypto.canonical import canonical_json

DEFAULT_HOURS = 2.0
HELD_OUT_DISTANCE = 0.5  # stricter than "same person" of two faces: with hundreds held out, chance finds many at that
# Settings that change where and how fast a training works, or how long, and nothing of what it computes in a step.
_NEUTRAL = frozenset(
    {
        "photos", "image_root", "output", "endpoint_url", "hours", "steps", "checkpoint_minutes", "page_minutes", "workers",
        "threads_per_worker", "gpus_per_worker", "cutting_actors", "name", "licence", "data", "known_limits", "grid",
        "temperature",
    }
)  # fmt: skip
# Settings that decide which faces are stored, and how.
_CUTTING = (
    "image_column", "id_column", "subject_column", "max_pixels", "max_file_bytes", "side", "template", "face_models",
    "held_out_share", "held_out_ids", "same_person_distance", "colour_weight", "rare_tone_weight",
)  # fmt: skip


class TrainConfig(InputConfig):
    """All settings of one training. A run is resumed by the same command; `steps`, `hours` and the layout may then change."""

    output: Path

    # What the card says
    name: str = Field(default="keyanon-prior", pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")
    licence: str = Field(default="not stated", max_length=256)
    data: str = Field(
        default="not stated", max_length=10_000, description="where the faces come from, under what licence"
    )
    known_limits: str = Field(default="", max_length=10_000, description="what the card says the prior can not do")

    # The prior
    initial: str | None = Field(
        default=None, description="prior to start from: 'embedded', directory or hub id; None: scratch"
    )
    conditioning: Conditioning = PriorSettings.conditioning
    prediction: Prediction = PriorSettings.prediction
    side: int = Field(default=PriorSettings.side, ge=8, le=1024, description="of the aligned crop in pixels")
    space_to_depth: int = Field(default=PriorSettings.space_to_depth, ge=1, le=64)
    channels: tuple[int, ...] = Field(default=PriorSettings.channels, min_length=1, max_length=6)
    layers_per_block: int = Field(default=PriorSettings.layers_per_block, ge=1, le=8)
    attention_levels: int = Field(default=PriorSettings.attention_levels, ge=0)
    grid: tuple[int, int] = PriorSettings.grid
    temperature: float = Field(
        default=0.75, ge=MIN_TEMPERATURE, le=1, description="rms of the noise faces are made from"
    )
    template: tuple[tuple[float, float], ...] = Field(default=PriorSettings.template, min_length=5, max_length=5)

    # The faces
    face_models: Literal["embedded"] = "embedded"
    held_out_share: float = Field(
        default=0.02, ge=0, lt=1, description="of the subjects, or of the ids without subjects"
    )
    held_out_ids: Path | None = Field(
        default=None, description="text file, one id a line: held out, with all their likes"
    )
    same_person_distance: float = Field(
        default=HELD_OUT_DISTANCE, ge=0, description="faces nearer than this to a held-out one are not trained on"
    )
    colour_weight: float = Field(default=20.0, gt=0, description="how much more often than a grey one")
    rare_tone_weight: float = Field(default=4.0, ge=1, description="at most this for rare skin tones")

    # The optimization
    steps: int | None = Field(default=None, ge=1, description="stop after so many")
    hours: float | None = Field(default=None, gt=0, description=f"of wall clock; {DEFAULT_HOURS} if steps is not given")
    batch: int = Field(default=Optimization.batch, ge=1, description="faces of a step over all workers")
    learning_rate: float = Field(default=Optimization.learning_rate, gt=0)
    warmup: int = Field(default=Optimization.warmup, ge=0)
    weight_decay: float = Field(default=Optimization.weight_decay, ge=0)
    clip: float = Field(default=Optimization.clip, gt=0)
    ema: float = Field(default=Optimization.ema, gt=0, lt=1)
    snr_power: float = Field(default=Optimization.snr_power, ge=0)
    snr_weights: tuple[float, float] = Optimization.snr_weights
    seed: int = Field(default=Optimization.seed, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware has it"
    )

    # Watching
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="what a kill costs at most")
    page_minutes: float = Field(default=20.0, gt=0)
    measured_faces: int = Field(default=8, ge=1, description="held-out faces measured and shown on the page")

    # Layout
    workers: int = Field(default=1, ge=1)
    threads_per_worker: int = Field(default=0, ge=0, description="0 shares the CPUs out")
    gpus_per_worker: float = Field(default=0.0, ge=0)
    cutting_actors: int = Field(default=0, ge=0, description="0: one for each CPU")

    @field_validator("output", mode="before")
    @classmethod
    def _output_is_a_directory(cls, value: Any) -> Any:
        if isinstance(value, str) and is_uri(value):
            raise ValueError("a prior is trained into a local directory")
        return value

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch % self.workers:
            raise ValueError(f"batch {self.batch} must be a multiple of workers {self.workers}")
        return self

    @property
    def threads(self) -> int:
        """Threads of one worker."""
        return self.threads_per_worker or max(usable_cpus() // self.workers, 1)

    @property
    def budget_hours(self) -> float | None:
        """Hours after which the training ends, None when only steps count."""
        return DEFAULT_HOURS if self.hours is None and self.steps is None else self.hours

    def settings(self) -> TrainingSettings:
        """The part that the training itself reads."""
        return TrainingSettings(
            PriorSettings(
                side=self.side,
                space_to_depth=self.space_to_depth,
                conditioning=self.conditioning,
                prediction=self.prediction,
                channels=self.channels,
                layers_per_block=self.layers_per_block,
                attention_levels=self.attention_levels,
                grid=self.grid,
                temperature=self.temperature,
                template=self.template,
            ),
            Augmentation(),
            Optimization(
                batch=self.batch,
                learning_rate=self.learning_rate,
                warmup=self.warmup,
                weight_decay=self.weight_decay,
                clip=self.clip,
                ema=self.ema,
                snr_power=self.snr_power,
                snr_weights=self.snr_weights,
                seed=self.seed,
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """sha256 over the settings that decide what a step computes: a run may be resumed only if it is the same."""
        return _digest({name: value for name, value in self.to_json().items() if name not in _NEUTRAL})

    def cutting_digest(self, source_digest: str) -> str:
        """sha256 over what decides which faces are stored, and how."""
        values = self.to_json()
        return _digest({"source": source_digest, **{name: values[name] for name in _CUTTING}})


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values)).hexdigest()
