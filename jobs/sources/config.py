"""Where the pictures of any job come from, and how settings are read: from a YAML file, from options, from both."""

import fnmatch
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.errors import ConfigError
from jobs.storage.place import Place, as_inbox, as_ingest_key, as_place, check_endpoint, check_source
from keyanon_core.imaging import DEFAULT_MAX_PIXELS

_T = TypeVar("_T")
_Settings = TypeVar("_Settings", bound=BaseModel)

DEFAULT_MAX_FILE_BYTES: Final = 512 * 1024 * 1024  # of one encoded picture; a larger one is quarantined unread
MAX_CONFIG_BYTES: Final = 1024 * 1024  # of a YAML file


def _as_value_error(check: Callable[[Any], _T], value: Any) -> _T:
    """What pydantic makes a message of."""
    try:
        return check(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


NamedInbox = Annotated[Place, AfterValidator(lambda value: _as_value_error(as_inbox, value))]
"""Where sealed keys are left, as it was named."""

NamedIngestKey = Annotated[Place, AfterValidator(lambda value: _as_value_error(as_ingest_key, value))]
"""Where a keystore's public keys are, as it was named."""


class InputConfig(BaseModel):
    """Where a job's pictures come from and which of them are too large; unknown settings are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True
    )  # an input may be a URI with a secret

    photos: str = Field(
        min_length=1, description="folder, picture, Parquet or tar shards (a file, or a folder of them); path or URI"
    )
    output: Place = Field(description="directory, or s3://bucket/prefix")
    endpoint_url: str | None = Field(default=None, description="of an S3 server that is not Amazon's")

    include: tuple[str, ...] = Field(default=(), description="globs over paths below photos; () takes every file")
    exclude: tuple[str, ...] = Field(default=(), description="the same, of files to leave out; wins over include")

    # What is read from Parquet
    image_column: str = Field(
        default="image", description="encoded pictures or clips, or names of them: see `References`"
    )
    image_root: str | None = Field(
        default=None, description="folder that named pictures lie in; path or s3://bucket/prefix. None: photos"
    )
    id_column: str | None = Field(default=None, description="None makes ids of file name and row number")
    subject_column: str | None = Field(default=None, description="whose picture it is: erasure works by subject")

    # Limits
    max_pixels: int = Field(default=DEFAULT_MAX_PIXELS, ge=1)
    max_file_bytes: int = Field(default=DEFAULT_MAX_FILE_BYTES, ge=1)

    @field_validator("photos", "image_root", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("photos", "image_root")
    @classmethod
    def _names_a_source(cls, value: str | None) -> str | None:
        return None if value is None else _as_value_error(check_source, value)

    @field_validator("output")
    @classmethod
    def _names_an_output(cls, value: Place) -> Place:
        return _as_value_error(as_place, value)

    @field_validator("endpoint_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else _as_value_error(check_endpoint, value)

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.image_column in (self.id_column, self.subject_column):
            raise ValueError("image_column can be neither id_column nor subject_column")
        return self

    def takes(self, path: str, *, unread: bool = False) -> bool:
        """Whether `include` and `exclude` let in the file of this path below photos. Globs as in the aws command: `*` matches any
        characters, `/` among them, `?` one, `[...]` one of several; upper and lower case differ. unread: the path stands for what
        lies in a folder that can not be read, of which nobody knows that `include` does not want it."""
        included = unread or not self.include or any(fnmatch.fnmatchcase(path, glob) for glob in self.include)
        return included and not any(fnmatch.fnmatchcase(path, glob) for glob in self.exclude)

    @property
    def places(self) -> dict[str, Place]:
        """What the job writes, by the name of its setting; none may lie in another or in the photos."""
        return {"output": self.output}

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file, let `overrides` (None values are ignored) win over it, and check the result.

        Raises:
            ConfigError: the file can not be read, or a setting is unknown, missing or out of range; names file and
            setting.
        """
        values = _read_yaml(path) if path is not None else {}
        values.update({name: value for name, value in (overrides or {}).items() if value is not None})
        return checked(cls, values, f"{path} with options" if path is not None else "the options")


def checked(settings: type[_Settings], values: Mapping[str, Any], origin: str = "the options") -> _Settings:
    """Settings of these values. Raises ConfigError: origin, and each setting that is unknown, missing or out of range."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; it is no configuration file")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can not be read as YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{path} must hold `setting: value` lines")
    return values
