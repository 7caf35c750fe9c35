"""A KEK in OpenBao or HashiCorp Vault, `vault:MOUNT/KEY`: a key of the transit secrets engine, which encrypts and never shows it.

Whom to ask, and by which token, is no part of the URI, which lies in the database: the server's own settings say it (VAULT_ADDR,
VAULT_TOKEN or ~/.vault-token, VAULT_NAMESPACE, VAULT_CACERT). The context is the associated data. The engine's own rotation of
the key is no new KEK: what an older version wrapped opens as before.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any, Final
from urllib.parse import urlsplit

from keystore.errors import KekError
from keystore.kek.refusals import altered

SCHEME: Final = "vault:"
ADDRESS_VARIABLE: Final = "VAULT_ADDR"
KEY_TYPE: Final = "aes256-gcm96"
SECONDS: Final = 30  # that an answer may take
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class TransitKek:
    """A KEK that a transit engine keeps."""

    def __init__(self, uri: str) -> None:
        """Raises KekError: no such key, no permission, no server, or a key that can be read out of it."""
        self.uri = uri
        self._mount, self._name = _place(uri)
        self._client = _client()
        key = _asked(self.uri, self._client.secrets.transit.read_key, name=self._name, mount_point=self._mount)["data"]
        if key["type"] != KEY_TYPE or key["exportable"] or key["allow_plaintext_backup"]:
            raise KekError(
                f"the key of KEK {uri} is of type {key['type']}, or can be read out of its server; a {KEY_TYPE} that is neither "
                "exportable nor in plaintext backups is needed"
            )
        place = f"{os.environ.get('VAULT_NAMESPACE', '')}\n{self._mount}\n{self._name}"
        self.kek_id = f"vault-{hashlib.sha256(place.encode()).hexdigest()[:32]}"

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        answer = _asked(
            self.uri,
            self._client.secrets.transit.encrypt_data,
            name=self._name,
            mount_point=self._mount,
            plaintext=_text(secret),
            associated_data=_text(context),
        )
        return str(answer["data"]["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        answer = _asked(
            self.uri,
            self._client.secrets.transit.decrypt_data,
            name=self._name,
            mount_point=self._mount,
            ciphertext=wrapped.decode("ascii", "replace"),
            associated_data=_text(context),
        )
        return base64.b64decode(answer["data"]["plaintext"])

    def __repr__(self) -> str:
        return f"TransitKek({self.uri!r}, {self.kek_id})"


def open_kek(uri: str) -> TransitKek:
    """Open a KEK that is there. Raises KekError."""
    return TransitKek(uri)


def create_kek(uri: str) -> bool:
    """Have the engine make the key unless there is one of this name; return whether it was made. Raises KekError."""
    mount, name = _place(uri)
    engine = _client().secrets.transit
    try:
        _asked(uri, engine.read_key, name=name, mount_point=mount)
        return False
    except MissingKeyError:
        _asked(uri, engine.create_key, name=name, mount_point=mount, key_type=KEY_TYPE, exportable=False)
        return True


class MissingKeyError(KekError):
    """The engine has no key of that name."""


def _place(uri: str) -> tuple[str, str]:
    mount, _, name = uri.removeprefix(SCHEME).rpartition("/")
    if not mount or not name or any(not (part.isascii() and part.isprintable()) for part in (mount, name)):
        raise KekError("KEK vault: names no key; give vault:MOUNT/KEY, such as vault:transit/keyanon")
    return mount, name


def _client() -> Any:
    try:
        import hvac
    except ImportError as error:
        raise KekError("a KEK in OpenBao or Vault needs hvac: pip install 'keyanon[vault]'") from error
    address = os.environ.get(ADDRESS_VARIABLE, "")
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise KekError(
            f"a KEK in OpenBao or Vault needs {ADDRESS_VARIABLE}, an https:// address: epoch keys travel to it and back"
        )
    return hvac.Client(url=address, timeout=SECONDS)


def _asked(uri: str, call: Any, **arguments: Any) -> Any:
    """What the server answers. Raises TamperedError where it finds a ciphertext altered, KekError for all else."""
    import hvac.exceptions
    import requests

    try:
        return call(**arguments)
    except hvac.exceptions.InvalidPath as error:
        raise MissingKeyError(f"KEK {uri} is not there; without it no key can be opened") from error
    except hvac.exceptions.InvalidRequest as error:
        if "ciphertext" in arguments:
            raise altered() from None
        raise KekError(f"the server of KEK {uri} refuses the request ({error})") from None
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        raise KekError(f"the server of KEK {uri} does not let this token use the key; check its policy") from error
    except (hvac.exceptions.VaultError, requests.RequestException) as error:
        raise KekError(f"the server of KEK {uri} does not answer ({type(error).__name__}); try again") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
