"""The key-encryption key (KEK): one interface, chosen by URI scheme. It wraps small keys and nothing else.

`file:` is for one machine; `pkcs11:`, `vault:` and `awskms:` are services that never show the key. A URI is stored in the
database, so none says where code is loaded from, whom to trust, or a secret: settings of the process do.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from keystore.errors import KekError
from keystore.kek import file

SERVICES: Final = {"pkcs11:": "hsm", "vault:": "transit", "awskms:": "awskms"}
"""By scheme: which module of this package knows it. Loaded when it is asked for: each needs a library of its own."""


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
    return None if uri.startswith(tuple(SERVICES)) else file.path_of(uri)


def open_kek(uri: str) -> KeyEncryptionKey:
    """Open an existing KEK. Raises KekError: missing, malformed, readable by others, or not to be reached."""
    opened: KeyEncryptionKey = _scheme(uri).open_kek(uri)
    return opened


def create_kek(uri: str) -> tuple[KeyEncryptionKey, bool]:
    """Open the KEK, or create it on first use. Return it and whether it was created. Raises KekError."""
    scheme = _scheme(uri)
    created = bool(scheme.create_kek(uri))
    return scheme.open_kek(uri), created


def _scheme(uri: str) -> Any:
    for scheme, name in SERVICES.items():
        if uri.startswith(scheme):
            return import_module(f"keystore.kek.{name}")
    if not uri.startswith(file.FILE_SCHEME):
        raise KekError(
            f"KEK {uri!r:.80} has no known scheme; use file:PATH, {', '.join(f'{one}...' for one in SERVICES)}"
        )
    return file
