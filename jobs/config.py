"""The settings of `keyanon anonymize`, printed into the manifest."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.errors import ConfigError
from jobs.sources.config import InputConfig, NamedInbox, NamedIngestKey
from jobs.sources.given_faces import GivenInput
from jobs.storage.place import Place, is_service
from keyanon_core.errors import KeyanonError
from keyanon_core.faces.given import FaceChoice
from keyanon_core.faces.looks import DEFAULT_MIN_FACE, MIN_FACE_LIMITS
from keyanon_core.faces.parsing import DEFAULT_REGIONS
from keyanon_core.imaging import DEFAULT_JPEG_QUALITY
from keyanon_core.pictures.settings import (
    DEFAULT_CHECK_EVERY,
    DEFAULT_FACE_BATCH,
    DEFAULT_FIDELITY,
    DEFAULT_GATE_THRESHOLD,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PAYLOAD_SHARE,
    DEFAULT_SIDECAR_BITS,
    SIDECAR_BITS_LIMITS,
    AnonymizeSettings,
    Fidelity,
    OutputFormat,
    chosen_sidecar_bits,
)
from keyanon_core.procedure import (
    DEFAULT_METHOD,
    DEFAULT_STEPS,
    EMBEDDED,
    EMBEDDED_CONDITIONING,
    INVERSIONS,
    MIN_PAYLOAD_SHARE,
    Inversion,
    Method,
    Transform,
    chosen_inversion,
    chosen_steps,
    chosen_transform,
)
from keystore.crypto.canonical import canonical_json

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # also where a path has swallowed one of its slashes

MAX_PAYLOAD_SHARE: Final = 0.95  # above, the carrier would decide nothing
DEFAULT_START_SECONDS: Final = 900.0  # for a machine that joins, its image, and what a process loads

# Settings that change where and how fast a run works, and none of its results: a run may be resumed with others.
NEUTRAL_SETTINGS = frozenset(
    {
        "photos",
        "image_root",
        "output",
        "endpoint_url",
        "keystore",
        "kek",
        "ingest_key",
        "inbox",
        "token_file",
        "receipt_seconds",
        "audio",
        "start_seconds",
        "boxes",  # the digests of these three files are in the listing's
        "keep",
        "subjects",
        "face_weights",
        "check_every",
        "compile",  # by these two results differ in rounding; each key record and the manifest say how they were made
        "device",
        "pictures_per_task",
        "detector_actors",
        "anonymizer_actors",
        "threads_per_actor",
        "cpus_per_actor",
        "gpus_per_actor",
        "object_store_bytes",
        "limit",
        "max_failure_rate",
        "gone",
        "accept_version",
    }
)


class AnonymizeConfig(InputConfig):
    """All settings of one run. Defaults are the safe ones."""

    # Where
    keystore: Path | None = Field(default=None, description="where sealed keys go; None only with keys discard")
    kek: str | None = Field(default=None, description="URI of the key-encryption key; None keeps it in the keystore")
    ingest_key: NamedIngestKey | None = Field(
        default=None,
        description="of a keystore elsewhere: file, or https:// or s3:// with #sha256=HEX; needs inbox, not keystore",
    )
    inbox: NamedInbox | None = Field(
        default=None,
        description="directory, s3://bucket/prefix, or https://host:port of that keystore, where sealed keys are left",
    )
    token_file: Path | None = Field(
        default=None, description="for an inbox that is a served keystore; read by each process where it runs"
    )
    receipt_seconds: float = Field(
        default=60.0, ge=0, description="without a new receipt, after which the keys are left to wait"
    )
    keys: Literal["store", "discard"] = Field(default="store", description="discard forgets them: nothing is restored")
    dataset: str = Field(
        default="", max_length=256, description="data set's name in key records; photos' name by default"
    )

    # What the user says about faces
    faces: FaceChoice = Field(default="detect", description="detect adds given ones to those that are detected")
    boxes: Path | None = Field(default=None, description="CSV or COCO file of faces to anonymize, beside a folder")
    keep: Path | None = Field(default=None, description="CSV or COCO file of boxes to leave alone, beside a folder")
    subjects: Path | None = Field(
        default=None, description="CSV of file,subject beside a folder: erasure works by subject"
    )
    boxes_column: str | None = Field(default=None, description="the same of Parquet")
    keep_column: str | None = None
    permanent_column: str | None = Field(default=None, description="true: the row's key is made and forgotten")

    pseudonyms: Literal["none", "consistent", "tracks"] = Field(
        default="none",
        description="consistent: the pictures of a subject show one new face, in later runs too; tracks: of clips, each person's "
        "track does",
    )
    audio: Literal["drop", "keep"] = Field(
        default="drop", description="of clips; keep: as it is in the source, and a voice tells who it is"
    )
    payload_share: float | None = Field(
        default=None,
        ge=MIN_PAYLOAD_SHARE,
        le=MAX_PAYLOAD_SHARE,
        description="of the source in the noise of a face that its subject's pseudonym decides; None without pseudonyms",
    )

    # The algorithm
    prior: str = Field(default=EMBEDDED, description="'embedded', directory or hub id in diffusers format")
    method: Method = DEFAULT_METHOD
    transform: Transform = Field(default="rotation", description="sign by default with the paper's methods")
    inversion: Inversion = Field(default="none", description="before the transform; ddim where it is needed")
    steps: int = Field(
        default=DEFAULT_STEPS["none"],
        ge=1,
        le=1000,
        description="one way; the method's or the inversion's own by default",
    )
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = Field(
        default="auto", description="what the denoiser's coarse steps multiply in; recovery is strict float32 always"
    )
    fidelity: Fidelity = DEFAULT_FIDELITY
    sidecar_bits: float = Field(
        default=DEFAULT_SIDECAR_BITS,
        ge=SIDECAR_BITS_LIMITS[0],
        le=SIDECAR_BITS_LIMITS[1],
        description="each costs 6 dB of what comes back from a sidecar; more with pseudonyms",
    )
    regions: frozenset[str] = Field(default=DEFAULT_REGIONS, min_length=1)
    face_models: Literal["embedded", "facexlib"] = "embedded"
    face_weights: Path | None = Field(default=None, description="directory of facexlib's weights")
    min_face: int = Field(
        default=DEFAULT_MIN_FACE,
        ge=MIN_FACE_LIMITS[0],
        le=MIN_FACE_LIMITS[1],
        description="px, height of the smallest face that is searched for; smaller ones may stay",
    )
    gate_threshold: float = Field(
        default=DEFAULT_GATE_THRESHOLD, gt=0, description="of the distance that strangers have from a face's source"
    )
    max_attempts: int = Field(default=DEFAULT_MAX_ATTEMPTS, ge=1, le=1000)
    check_every: int = Field(default=DEFAULT_CHECK_EVERY, ge=1, description="faces; one is restored before publishing")
    no_face: Literal["quarantine", "pass"] = "quarantine"
    doubtful: Literal["paint", "quarantine"] = Field(
        default="paint",
        description="of clips: faces that no key makes unlike their source; painted over they never come back",
    )
    output_format: OutputFormat = "same"
    jpeg_quality: int = Field(default=DEFAULT_JPEG_QUALITY, ge=1, le=95)

    # How far a run goes
    limit: int | None = Field(
        default=None, ge=1, description="the first rows of the listing; the others stay to be done"
    )
    max_failure_rate: float | None = Field(
        default=None, ge=0, lt=1, description="share of quarantined rows above which a run stops; see `FailureRate`"
    )

    gone: Literal["fail", "keep"] = Field(
        default="fail",
        description="pictures of an earlier attempt that photos do not hold any more; keep: their rows stay",
    )

    accept_version: str | None = Field(
        default=None, description="of keyanon, which may go on with a run that another one began"
    )

    # How the work is laid out
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: the cluster's GPUs, else its CPUs"
    )
    compile: bool = Field(default=False, description="torch.compile for anonymizing; recovery never needs it")
    face_batch: int = Field(
        default=DEFAULT_FACE_BATCH, ge=1, le=4096, description="faces in one call of the prior, at most"
    )
    pictures_per_task: int = Field(
        default=0, ge=0, le=100_000, description="at most, and rows of one shard; 0 follows the batch: see `TaskSizes`"
    )
    detector_actors: int = Field(default=0, ge=0, description="0: one for a few anonymizing ones, see `Placement`")
    anonymizer_actors: int = Field(default=0, ge=0, description="0: as many as the machines keep busy, see `Placement`")
    threads_per_actor: int = Field(default=0, ge=0, description="of one anonymizing actor; 0 shares the CPUs out")
    cpus_per_actor: float = Field(default=0.0, ge=0, description="logical CPUs Ray reserves; 0 never waits for one")
    gpus_per_actor: float | None = Field(
        default=None, ge=0, description="GPUs Ray reserves; None: a share, see `Placement`"
    )
    start_seconds: float = Field(
        default=DEFAULT_START_SECONDS,
        ge=0,
        description="without a ready process of a stage, after which a run ends; see `PoolWatch`",
    )
    object_store_bytes: int | None = Field(default=None, ge=80 * 1024 * 1024, description="of a local cluster")

    @field_validator("keystore", mode="before")
    @classmethod
    def _keystore_is_a_directory(cls, value: Any) -> Any:
        if isinstance(value, str | os.PathLike) and _URI.match(os.fspath(value)):
            raise ValueError("the keystore is a local directory, and can not be a URI")
        return value

    @model_validator(mode="before")
    @classmethod
    def _dataset_from_photos(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("dataset") and values.get("photos"):
            name = Path(os.path.abspath(os.fspath(values["photos"]))).stem  # noqa: PTH100  resolves "." without the disk
            values = {**values, "dataset": name.encode("utf-8", "replace").decode() or "photos"}
        return values

    @model_validator(mode="before")
    @classmethod
    def _procedure_is_chosen(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        method = values.get("method", DEFAULT_METHOD)
        transform = values.get("transform") or chosen_transform(method)
        inversion = values.get("inversion") or chosen_inversion(method, transform)
        steps = chosen_steps(method, inversion if inversion in INVERSIONS else "none")
        return {"steps": steps, **values, "transform": transform, "inversion": inversion}

    @model_validator(mode="before")
    @classmethod
    def _share_is_chosen(cls, values: Any) -> Any:
        """What rides on a pseudonym is stored finer, unless another fineness is asked for."""
        if not isinstance(values, dict) or values.get("pseudonyms") in (None, "none"):
            return values
        share = values.get("payload_share")
        share = DEFAULT_PAYLOAD_SHARE if share is None else share
        chosen = {"payload_share": share}
        if isinstance(share, int | float) and share > 0:
            chosen["sidecar_bits"] = chosen_sidecar_bits(share)
        return {**chosen, **values, "payload_share": share}

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        try:
            settings = self.settings()
            # Other priors say what they need in their declaration, which is read where they are loaded.
            if self.prior == EMBEDDED:
                settings.check_prior({}, EMBEDDED_CONDITIONING, self.prior)
        except KeyanonError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _keys_have_a_place_or_are_discarded(self) -> Self:
        outside = self.ingest_key is not None or self.inbox is not None
        if self.keys == "store" and self.keystore is None and not outside:
            raise ValueError(
                "keystore is missing: the keys need a place (keystore, or ingest_key and inbox), or keys must be discard"
            )
        if outside and (
            self.ingest_key is None or self.inbox is None or self.keystore is not None or self.kek is not None
        ):
            raise ValueError("ingest_key and inbox go together, in the place of keystore and kek")
        if (self.token_file is not None) != (self.inbox is not None and is_service(self.inbox)):
            raise ValueError(
                "token_file goes with an inbox that is a served keystore, https://host:port, and it with one"
            )
        asked = {
            "keystore": self.keystore is not None,
            "kek": self.kek is not None,
            "ingest_key and inbox": outside,
            "permanent_column": self.permanent_column is not None,
            f"fidelity {self.fidelity}": self.fidelity != "latent",
        }
        if self.keys == "discard" and any(asked.values()):
            useless = ", ".join(name for name, is_set in asked.items() if is_set)
            raise ValueError(f"keys discard keeps no key and restores nothing; leave out {useless}")
        return self

    @model_validator(mode="after")
    def _pseudonyms_have_subjects_and_a_keeper(self) -> Self:
        if self.pseudonyms == "none":
            if self.payload_share is not None:
                raise ValueError("payload_share is of pseudonyms consistent; leave it out, or ask for them")
            return self
        if self.pseudonyms == "consistent" and self.subjects is None and self.subject_column is None:
            raise ValueError(
                "pseudonyms consistent gives each subject one face; say whose picture each is: subject_column of Parquet, "
                "subjects (a CSV file of file,subject) beside a folder or tar shards"
            )
        if self.keys == "discard":
            raise ValueError(
                f"pseudonyms {self.pseudonyms} are kept by a keystore, and keys discard has none; give a keystore"
                + (", and a permanent_column for rows whose keys are to be forgotten" if self.subject_column else "")
            )
        if self.inbox is not None and not is_service(self.inbox):
            raise ValueError(
                f"pseudonyms {self.pseudonyms} are asked of the keystore while the run goes on, and the inbox {self.inbox} "
                "answers nothing; give its service, inbox https://host:port, with a token_file of the role pseudonyms (`keyanon "
                "keystore token issue --role pseudonyms --dataset NAME`), or keystore"
            )
        return self

    @model_validator(mode="after")
    def _given_faces_fit_their_use(self) -> Self:
        given = self.given()
        if self.faces == "given" and given.boxes is None and given.boxes_column is None:
            raise ValueError("faces given needs boxes or boxes_column")
        said = [name for name in ("boxes", "keep", "boxes_column", "keep_column") if getattr(given, name) is not None]
        if self.faces == "aligned" and said:
            raise ValueError(f"faces aligned takes each picture as one face's crop; leave out {', '.join(said)}")
        used = [self.image_column, self.id_column, self.subject_column]
        for setting, name in given.columns().items():
            if name in used:
                raise ValueError(f"{setting} {name!r} is another setting's column already")
            used.append(name)
        return self

    @property
    def places(self) -> dict[str, Place]:
        of_keys = {"keystore": self.keystore, "inbox": self.inbox}
        return {"output": self.output, **{name: place for name, place in of_keys.items() if place is not None}}

    @property
    def has_pseudonyms(self) -> bool:
        """Whether faces ride on carriers that the keystore keeps."""
        return self.pseudonyms != "none"

    def over_clips(self) -> Self:
        """The same settings for a run over clips. Raises ConfigError where they are not for one."""
        if self.pseudonyms == "consistent" or self.faces != "detect" or self.output_format != "same":
            raise ConfigError(
                "clips show each of their people's tracks as one face, found by the detector, and stay what they are; leave out "
                "pseudonyms, faces and output_format"
            )
        said = self.model_dump(exclude_unset=True)
        return type(self).load(None, {**said, "pseudonyms": "tracks"})

    def given(self) -> GivenInput:
        """Where the run finds what its user says about faces."""
        return GivenInput(
            self.boxes,
            self.keep,
            self.subjects,
            self.boxes_column,
            self.keep_column,
            self.permanent_column,
            of_gone=self.gone == "keep",
        )

    def settings(self) -> AnonymizeSettings:
        """The part that the algorithm reads."""
        return AnonymizeSettings(
            method=self.method,
            transform=self.transform,
            inversion=self.inversion,
            steps=self.steps,
            fidelity=self.fidelity,
            payload_share=1.0 if self.payload_share is None else self.payload_share,
            sidecar_bits=self.sidecar_bits,
            regions=self.regions,
            faces=self.faces,
            reversible=self.keys == "store",
            gate_threshold=self.gate_threshold,
            max_attempts=self.max_attempts,
            check_every=self.check_every,
            no_face=self.no_face,
            doubtful=self.doubtful,
            output_format=self.output_format,
            jpeg_quality=self.jpeg_quality,
            face_batch=self.face_batch,
            max_pixels=self.max_pixels,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types, sets sorted: what the manifest shows."""
        values = self.model_dump(mode="json")
        values["regions"] = sorted(self.regions)
        return values

    def digest(self) -> str:
        """sha256 over the settings that change results: two runs may continue each other only if it is the same."""
        meaning = {name: value for name, value in self.to_json().items() if name not in NEUTRAL_SETTINGS}
        return hashlib.sha256(canonical_json(meaning)).hexdigest()
