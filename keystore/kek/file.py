"""A KEK in a file, `file:PATH`: 32 random bytes, mode 0600. For one machine: whoever reads the file and the database reads
every key.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keystore.crypto import envelope
from keystore.errors import KekError
from keystore.kek.refusals import altered
from keystore.storage import durable

KEK_FILE_NAME = "kek.key"
FILE_SCHEME = "file:"
KEK_HEADER = "keyanon-kek-1"
MAX_KEK_FILE_BYTES = 1024
KEK_ID_BYTES = 16


class FileKek:
    """A KEK held in a file; its repr shows where, never what."""

    def __init__(self, uri: str, key: bytes) -> None:
        self.uri = uri
        self._key = key
        identity = HKDF(SHA256(), length=KEK_ID_BYTES, salt=None, info=b"keyanon kek id v1").derive(key)
        self.kek_id = f"file-{identity.hex()}"

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        return envelope.seal(self._key, secret, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return envelope.open_envelope(self._key, wrapped, context)
        except envelope.EnvelopeError as error:
            raise altered() from error

    def __repr__(self) -> str:
        return f"FileKek({self.uri!r}, {self.kek_id})"


def path_of(uri: str) -> Path:
    """Return the file that a `file:` URI names. Raises KekError when it names none."""
    path = uri.removeprefix(FILE_SCHEME)
    if not uri.startswith(FILE_SCHEME) or not path:
        raise KekError(f"KEK {uri!r} has no known scheme; use file:PATH")
    return Path(path.removeprefix("//") if path.startswith("///") else path)


def open_kek(uri: str) -> FileKek:
    """Open an existing KEK file. Raises KekError: missing, malformed, or readable by others."""
    path = path_of(uri)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise KekError(
            f"KEK file {path} is missing; without it no key can be opened. Put it back from where it is kept, "
            "or name its place with kek_uri=file:PATH"
        ) from error
    except OSError as error:
        raise KekError(
            f"KEK file {path} can not be read ({error.strerror}); run as the account that owns it"
        ) from error
    with os.fdopen(descriptor, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KekError(
                f"KEK file {path} has mode {mode:04o}, open to others; run: chmod 600 {path} (and ask who has read it)"
            )
        try:
            data = stream.read(MAX_KEK_FILE_BYTES + 1)
        except OSError as error:
            raise KekError(f"KEK file {path} can not be read ({error.strerror})") from error
    return FileKek(uri, _parse(data, path))


def create_kek(uri: str) -> bool:
    """Create the KEK file unless it exists; return whether it was created. Raises KekError."""
    path = path_of(uri)
    if path.exists():
        return False
    text = f"{KEK_HEADER}\n{base64.b64encode(os.urandom(envelope.KEY_BYTES)).decode()}\n"
    try:
        durable.make_directory(path.parent)
        durable.write_new(path, text.encode(), durable.SECRET_MODE)
    except FileExistsError:
        return False  # another process created it between the look and the write: use theirs
    except OSError as error:
        raise KekError(
            f"KEK file {path} can not be created ({error.strerror}); choose another place with kek_uri=file:PATH"
        ) from error
    return True


def _parse(data: bytes, path: Path) -> bytes:
    try:
        header, encoded = data.decode("ascii").split()
        key = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        header, key = "", b""
    if header != KEK_HEADER or len(key) != envelope.KEY_BYTES:
        raise KekError(f"KEK file {path} is not a KEK file of this project or is damaged; put it back from a backup")
    return key
