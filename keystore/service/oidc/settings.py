"""The settings of a sign-in: which provider is believed, what it must say, and what its word is worth here. A YAML file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from keystore.errors import StorageError
from keystore.service.loopback import is_loopback
from keystore.storage import durable

ALGORITHMS = (
    "ES256",
    "Ed25519",
    "EdDSA",
    "PS256",
    "RS256",
)  # asymmetric all: with a shared secret, clients could forge
MAX_TOKEN_HOURS = 8
MAX_FILE_BYTES = 64 * 1024
MAX_SECRET_BYTES = 4096
CALLBACK_PATH = "/v1/sign-in/callback"


def safe_url(url: str) -> str:
    """Return an address if what is said there can be believed: https, or this machine itself. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("is no plain https:// address")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("is no https:// address; plain http is for this machine only")
    return url


def _base_url(url: str) -> str:
    if urlsplit(safe_url(url)).query:
        raise ValueError("has a query, which belongs elsewhere")
    return url


class OidcSettings(BaseModel):
    """What `keyanon keystore serve --oidc FILE` reads.

    issuer: what the provider calls itself, to the letter. address: of this service, as browsers reach it.
    client_secret_file: where the provider asks for a secret; mode 0600. hosts: others than the issuer's that may be asked for
    keys and tokens. amr: each must be in what the provider says of how the person was known; acr: one must be what it says.
    max_age_minutes: since the person showed who they are. prompt: what the provider is asked to do though the person is known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: Annotated[str, AfterValidator(_base_url)] = Field(max_length=2000)
    client_id: str = Field(min_length=1, max_length=500)
    address: Annotated[str, AfterValidator(_base_url)] = Field(max_length=2000)
    client_secret_file: Path | None = None
    hosts: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ALGORITHMS
    amr: tuple[str, ...] = ()
    acr: tuple[str, ...] = ()
    max_age_minutes: int | None = Field(default=None, ge=1, le=7 * 24 * 60)
    prompt: str | None = Field(default="login", pattern="^(login|select_account|consent)$")
    token_hours: int = Field(default=MAX_TOKEN_HOURS, ge=1, le=MAX_TOKEN_HOURS)

    @property
    def callback(self) -> str:
        """Where the provider sends browsers back to."""
        return self.address.rstrip("/") + CALLBACK_PATH

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises StorageError: it can not be read, or says what it can not."""
        try:
            document = yaml.safe_load(durable.read_regular(path, MAX_FILE_BYTES).decode())
            settings = cls.model_validate(document)
        except OSError as error:
            raise StorageError(f"settings {path} can not be read ({error.strerror})") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise StorageError(f"settings {path}: {where}: {problem['msg']}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise StorageError(f"settings {path} are no YAML file of {', '.join(cls.model_fields)}") from error
        unknown = sorted(set(settings.algorithms) - set(ALGORITHMS))
        if unknown or not settings.algorithms:
            raise StorageError(f"settings {path}: algorithms: of {', '.join(ALGORITHMS)} at least one, and no others")
        return settings

    def client_secret(self) -> str | None:
        """Read the client's secret, None where there is none. Raises StorageError: others may read it, or it can not be read."""
        if self.client_secret_file is None:
            return None
        path = self.client_secret_file
        try:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise StorageError(f"client secret {path} is open to others; chmod 600 it, and have it renewed")
            secret = durable.read_regular(path, MAX_SECRET_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"client secret {path} can not be read ({type(error).__name__})") from error
        if not secret:
            raise StorageError(f"client secret {path} is empty; put the secret in it that the provider gave")
        return secret
