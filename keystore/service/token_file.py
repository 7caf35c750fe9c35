"""The file that a person or a job is known by: a token of the service, and the verifier key that releases are held against.

    keyanon-token-1 LF token LF vkey of the audit key LF

The first is a secret, so the file is its owner's alone. The second is in it so that a client does not have to believe the service
about whose signature a release must bear.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from keystore.audit.checkpoint import parse_verifier_key
from keystore.decisions.api_token import TOKEN
from keystore.errors import AuditError, StorageError
from keystore.storage import durable

FIRST_LINE = "keyanon-token-1"
MODE = 0o600
MAX_BYTES = 4096


@dataclass(frozen=True)
class TokenFile:
    """A token, and the keystore's verifier key."""

    token: str = field(repr=False)
    audit_vkey: str

    @staticmethod
    def claim(path: Path) -> None:
        """Make an empty file that nobody else can read. Raises StorageError: it is there already, or can not be made."""
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE))
        except OSError as error:
            raise StorageError(
                f"token file {path} can not be made ({error.strerror}); name a file that is not there yet"
            ) from error

    def write(self, path: Path) -> None:
        """Fill a claimed file. Raises StorageError."""
        try:
            durable.replace(path, f"{FIRST_LINE}\n{self.token}\n{self.audit_vkey}\n".encode(), MODE)
        except OSError as error:
            raise StorageError(f"token file {path} can not be written ({error.strerror}); free space") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a token file. Raises StorageError: it is none, or others may read it."""
        try:
            if _is_open(path.stat()):
                raise StorageError(f"token file {path} is open to others; chmod 600 it, and have its token revoked")
            lines = durable.read_regular(path, MAX_BYTES).decode("ascii").splitlines()
        except OSError as error:
            raise StorageError(f"token file {path} can not be read ({error.strerror})") from error
        except UnicodeDecodeError:
            lines = []
        try:
            first, token, vkey = lines
            parse_verifier_key(vkey)
        except (ValueError, AuditError):
            first = token = vkey = ""
        if first != FIRST_LINE or not TOKEN.fullmatch(token):
            raise StorageError(f"{path} is no token file; `keyanon keystore token issue` writes one")
        return cls(token, vkey)


def _is_open(file: os.stat_result) -> bool:
    """Whether others than its owner may do anything with a file. A group may read what belongs to root, as PostgreSQL has it for
    its keys: so Kubernetes hands a secret to a pod that is not root."""
    allowed = stat.S_IRGRP if file.st_uid == 0 and os.geteuid() != 0 else 0
    return bool(file.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed)
