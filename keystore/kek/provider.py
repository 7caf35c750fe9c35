"""The key-encryption key (KEK): one interface, chosen by URI scheme. It wraps small keys and nothing else.

`awskms:`, `hsm:` and `vault:` are names kept for services that never show the key; they are refused at use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from keystore.errors import KekError
from keystore.kek import file

REMOTE_SCHEMES = ("awskms:", "hsm:", "vault:")


class KeyEncryptionKey(Protocol):
    """What the keystore asks of a KEK, wherever it lives. `kek_id` tells two KEKs apart and reveals neither."""

    @property
    def uri(self) -> str: ...

    @property
    def kek_id(self) -> str: ...

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        """Encrypt a small secret, bound to `context`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt. Raises TamperedError when key, context or bytes differ from those at `wrap`."""
        ...


def default_uri(directory: Path) -> str:
    """Return the URI of the KEK file inside a keystore directory."""
    return file.FILE_SCHEME + str(directory / file.KEK_FILE_NAME)


def kek_path(uri: str) -> Path | None:
    """Return the file behind a `file:` URI, or None for a scheme that is a service. Raises KekError for an unknown scheme."""
    return None if uri.startswith(REMOTE_SCHEMES) else file.path_of(uri)


def open_kek(uri: str) -> KeyEncryptionKey:
    """Open an existing KEK. Raises KekError: missing, malformed, readable by others, or of a scheme not configured."""
    _check_configured(uri)
    return file.open_file(uri)


def create_kek(uri: str) -> tuple[KeyEncryptionKey, bool]:
    """Open the KEK, or create it on first use. Return it and whether it was created. Raises KekError."""
    _check_configured(uri)
    created = file.create_file(uri)
    return file.open_file(uri), created


def _check_configured(uri: str) -> None:
    if uri.startswith(REMOTE_SCHEMES):
        scheme = uri.split(":", 1)[0]
        raise KekError(
            f"KEK scheme {scheme!r} is not configured in this version; use file:PATH, or an installation that provides it"
        )
