"""The embedded database: SQLite in WAL mode, one writer at a time (BEGIN IMMEDIATE), every commit on disk."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import LRUCache

from keystore.errors import PassingError, StorageError, TamperedError
from keystore.storage.database import BUSY_TIMEOUT_MILLISECONDS, REMAKING_OPTION, WRITE_OPTION, Database

DATABASE_NAME = "keystore.db"
PRIVATE_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
CACHE_KIB = 64 * 1024  # of pages, for one connection: a transaction that stores a shard does not spill
CHECKPOINT_PAGES = 16 * 1024  # of the WAL (64 MiB) before it is folded in: what many shards touch is written once
FOLD_TIMEOUT_MILLISECONDS = 1_000
STATEMENTS = 1_000  # compiled ones that a process keeps, for all keystores that it opens

_COMPILED: LRUCache[Any, Any] = LRUCache(STATEMENTS)

# What SQLite says, and what an operator can do about it; first what may pass.
_PASSING_REMEDIES = (
    ("disk is full", "the disk is full; free space and try again"),
    (
        "disk i/o error",
        "the disk does not take writes (full, over quota, or failing); free space or check the disk and try again",
    ),
    ("locked", f"another process has held it for {BUSY_TIMEOUT_MILLISECONDS // 1000} s; wait for it and try again"),
)
_REMEDIES = (
    ("readonly", "it is read-only; give this account write permission on the directory and its files"),
    ("unable to open", "it can not be opened; check that the directory exists and this account may read and write it"),
    ("malformed", "it is corrupt; stop, keep a copy, and restore the last backup"),
    ("not a database", "it is not a keystore database or is corrupt; keep a copy and restore the last backup"),
    (
        "no such table",
        "it is not a keystore database, or its creation never finished; create the keystore again or restore a backup",
    ),
)


def storage_error(path: Path, error: Exception) -> StorageError:
    """Return the StorageError for an error of SQLite or the operating system, with what to do."""
    cause = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
    if "unable to open" in cause and _takes_no_name(path.parent):
        cause = f"{cause}: the disk is full"
    for kind, remedies in ((PassingError, _PASSING_REMEDIES), (StorageError, _REMEDIES)):
        for symptom, remedy in remedies:
            if symptom in cause.casefold():
                return kind(f"keystore database {path}: {remedy} ({cause})")
    return StorageError(f"keystore database {path}: {cause}; nothing was changed")


def _takes_no_name(directory: Path) -> bool:
    """Whether a disk has no room for one more file; SQLite says then that it can not open the one it would make."""
    with suppress(OSError):
        room = os.statvfs(directory)
        return room.f_files > 0 and room.f_ffree == 0
    return False


class SqliteDatabase(Database):
    """Connections to one SQLite file."""

    _driver_errors = (DBAPIError, sqlite3.Error)

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if create:
            _create_private(path)
        # Without `create`, a missing file is an error, never a new empty keystore.
        engine = _engine(path, mode="rwc" if create else "rw")
        event.listen(engine, "connect", _on_connect)
        super().__init__(str(path), engine)

    def _on_begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get(REMAKING_OPTION, False):
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # says nothing inside of a transaction
        writing = connection.get_execution_options().get(WRITE_OPTION, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    def _error(self, error: Exception) -> StorageError:
        return storage_error(self.path, error)

    def _check_remade(self, connection: Connection) -> None:
        if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
            raise TamperedError(
                f"rows of {self.path} refer to rows that it does not hold: it was edited; restore it from a backup"
            )

    def fold(self) -> None:
        """Fold the WAL into the database file and empty it, so that no older page of a row that is gone lies in it.

        Where another process reads meanwhile, SQLite leaves it for the next time. Raises StorageError.
        """
        with self._told(), closing(self._engine.raw_connection()) as connection:  # outside of any transaction
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {FOLD_TIMEOUT_MILLISECONDS}")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")


@contextmanager
def read_only(path: Path) -> Iterator[Connection]:
    """A reading transaction on a database that is not written to, nor its directory if nobody has it open. Raises
    StorageError."""
    wal = path.with_name(path.name + "-wal")
    try:
        # Without a WAL the file is complete, and `immutable` reads it even from a medium that takes no writes.
        quiet = not wal.exists() or wal.stat().st_size == 0
        engine = _engine(path, mode="ro", **({"immutable": "1"} if quiet else {}))
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA trusted_schema = OFF")
                yield connection
        finally:
            engine.dispose()
    except (DBAPIError, sqlite3.Error, OSError) as error:
        raise storage_error(path, error) from error


def _create_private(path: Path) -> None:
    # Before SQLite does, which goes by the umask; its -wal and -shm take the mode of the database.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
    except FileExistsError:
        pass
    except OSError as error:
        raise storage_error(path, error) from error


def close_to_others(directory: Path) -> bool:
    """Take from group and others what they may do with a database of this account; return whether they could do anything."""
    closed = False
    for name in ("", "-wal", "-shm"):
        one = directory / (DATABASE_NAME + name)
        try:
            status = one.stat()
            if status.st_mode & OTHERS and status.st_uid == os.geteuid():
                one.chmod(status.st_mode & ~OTHERS & 0o777)
                closed = True
        except FileNotFoundError:
            continue
        except OSError as error:
            raise storage_error(one, error) from error
    return closed


def _engine(path: Path, **query: str) -> Engine:
    # `file:` names the path to SQLite's URI parser; the characters that mean something there are escaped.
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=f"file:{quoted}", query={**query, "uri": "true"}),
        connect_args={"timeout": BUSY_TIMEOUT_MILLISECONDS / 1000},
        hide_parameters=True,  # else an error quotes names and purposes, and a traceback shows them
        execution_options={"compiled_cache": _COMPILED},
    )
    engine.dialect = _dialect()
    return engine


@cache
def _dialect() -> Dialect:
    """The dialect of every engine here: statements are kept by it, and a keystore that is opened compiles none anew."""
    engine = create_engine("sqlite+pysqlite://")
    engine.connect().close()  # the first connection tells a dialect what its SQLite can do
    engine.dispose()
    return engine.dialect


def _on_connect(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where `_on_begin` says, not where the driver guesses
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.execute("PRAGMA trusted_schema = OFF")
    cursor.close()
