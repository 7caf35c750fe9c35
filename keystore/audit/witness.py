"""The witness: a file that remembers the last checkpoint, outside of the database, so that an older database is refused.

It moves forward only, and only where the log was seen to grow: one that was rolled back, or continued differently, does not pass.
Put its directory on another disk, or copy the file elsewhere, and the operator of the database can not roll back unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keystore.audit.checkpoint import MAX_NOTE_CHARACTERS, Checkpoint, open_checkpoint
from keystore.errors import AuditError, StorageError
from keystore.storage import durable

WITNESS_DIRECTORY = "witness"
CHECKPOINT_FILE = "checkpoint"
LOCK_FILE = ".lock"
Check = Callable[[Checkpoint, Checkpoint], None]  # raises AuditError unless the second's log begins with the first's


class Witness:
    """The checkpoint file of one log."""

    def __init__(self, directory: Path, *vkeys: str) -> None:
        self._path = directory / CHECKPOINT_FILE
        self._vkeys = vkeys

    def note(self) -> str | None:
        """Return the remembered note, unverified; None when nothing was ever remembered. Raises AuditError, StorageError."""
        try:
            with self._path.open(encoding="utf-8", newline="") as stream:
                return stream.read(MAX_NOTE_CHARACTERS + 1)
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise AuditError(
                f"the witness {self._path} is damaged; put back a copy, or open with a checkpoint you kept"
            ) from error
        except OSError as error:
            raise StorageError(f"the witness {self._path} can not be read ({error.strerror})") from error

    def last(self) -> Checkpoint | None:
        """Return the remembered checkpoint, None when nothing was ever remembered. Raises AuditError, StorageError."""
        note = self.note()
        return None if note is None else open_checkpoint(note, *self._vkeys)

    def remember(self, note: str, check: Check) -> None:
        """Move on to a checkpoint that extends the remembered one. Raises AuditError, StorageError.

        A checkpoint older than the remembered one is not an error here: another process was quicker.
        """
        new = open_checkpoint(note, *self._vkeys)
        try:
            durable.make_directory(self._path.parent)
            with durable.locked(self._path.parent / LOCK_FILE):
                last = self.last()
                if last is not None:
                    if new.size < last.size or new == last:
                        return
                    check(last, new)
                durable.replace(self._path, note.encode())
        except OSError as error:
            raise StorageError(
                f"the witness {self._path} can not be written ({error.strerror}); free space or mend permissions"
            ) from error
