"""The errors of the keystore: one small tree. Each message says what happened, to what, and what to do next, and
holds no secret."""

from __future__ import annotations

import errno
from typing import Final

# Of a disk or a machine that is short of something, or fails; a place that is missing or closed to this account stays so.
_PASSING: Final = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOMEM,
        errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip


class KeystoreError(Exception):
    """Base of every error the keystore raises on purpose; its message is fit to be shown to a user."""


class StorageError(KeystoreError):
    """The directory, the database or the disk does not do what was asked: missing, read-only, full, locked, corrupt."""


class PassingError(StorageError):
    """As StorageError, of what may pass: a disk that is full or fails, a database that is held, a server that is away."""


class HiddenRecordError(StorageError):
    """A record's id is that of one which is stored, and which this account may not see."""


class SchemaError(StorageError):
    """The database was written by another version of the schema that this program can not read."""


class KekError(KeystoreError):
    """The key-encryption key can not be used: missing, readable by others, malformed, or of a scheme not configured."""


class WrongKekError(KekError):
    """A key-encryption key was given, but it is not the one this keystore is wrapped under."""


class InvalidRecordError(KeystoreError):
    """A key record or public key is malformed, or does not say what its header says."""


class ShardExistsError(KeystoreError):
    """A sealed shard of that name is already in the inbox; it was not overwritten."""


class TamperedError(KeystoreError):
    """Stored bytes are not the bytes that were written."""


class AuditError(KeystoreError):
    """The audit log, its checkpoint or its witness contradict each other; nothing is released until it is explained."""


class ClockError(KeystoreError):
    """The clock can not be right: it is behind the log, or so far ahead that an operator must say so. Nothing is written."""


class Refusal(KeystoreError):
    """Someone asked for something the rules do not allow; the attempt is in the audit log under `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PolicyError(Refusal):
    """A request or a policy is outside of what the keystore's policy allows."""


class ApprovalError(Refusal):
    """This person can not approve, deny or change this request now."""


class GrantError(Refusal):
    """There is no grant that allows this release: not approved, expired, used, or another person's."""


class RecordNotFound(Refusal):
    """No key record answers to this image or record id."""


class ErasureError(Refusal):
    """What was to be erased or retired can not be, as things are."""


class TokenError(Refusal):
    """A token can not be issued or revoked as asked."""


class BindingError(Refusal):
    """An identity can not be bound, unbound or signed in with as asked."""


class RequestNotFound(Refusal):
    """No request answers to this id."""


def may_pass(error: KeystoreError) -> bool:
    """Return whether the same call may do it later: nothing is wrong with what was asked, or with where the keystore is."""
    cause = error.__cause__
    return isinstance(error, PassingError) or (isinstance(cause, OSError) and cause.errno in _PASSING)


def public_name(error: KeystoreError) -> str:
    """Return the name of an error's class, or of the nearest above it that this module has: what another process may know."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)


def named(name: str, code: str, message: str) -> KeystoreError:
    """Return the error of a `public_name`, as another process told it; a KeystoreError where there is none of that name."""
    kind = globals().get(name)
    if not (isinstance(kind, type) and issubclass(kind, KeystoreError)):
        return KeystoreError(message)
    return kind(code, message) if issubclass(kind, Refusal) else kind(message)
