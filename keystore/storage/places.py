"""Where a keystore directory's database is: the SQLite file in it, or the PostgreSQL database that a file in it names.

The directory stays in either case: the KEK's file where that is one, the published keys, the witness and the inbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from keystore.errors import StorageError
from keystore.storage import durable
from keystore.storage.database import Database, check_schema
from keystore.storage.postgresql import PostgresDatabase, check_uri
from keystore.storage.sqlite import DATABASE_NAME, SqliteDatabase, read_only

URI_NAME = "database.uri"
MOVING_NAME = (
    f"{DATABASE_NAME}.moving"  # while it lies there, a URI beside the file is where the file's keystore was moved to
)
MOVED_SUFFIX = ".moved"
MAX_URI_BYTES = 4096


def has_database(directory: Path) -> bool:
    """Return whether a directory says where its keystore's database is."""
    return (directory / DATABASE_NAME).is_file() or (directory / URI_NAME).is_file()


def check_exists(directory: Path) -> None:
    """Raise StorageError unless a directory is a keystore's."""
    if not has_database(directory):
        raise StorageError(
            f"{directory} is not a keystore: it has no {DATABASE_NAME} and no {URI_NAME}; check the path, or create one"
        )


def database_of(directory: Path) -> Database:
    """Return the database of a keystore directory; the caller closes it. Raises StorageError."""
    check_exists(directory)
    uri = database_uri(directory)
    return SqliteDatabase(directory / DATABASE_NAME) if uri is None else PostgresDatabase(uri)


def new_database(directory: Path, uri: str | None) -> Database:
    """Return the database that a keystore shall be created in: of PostgreSQL the one that `uri` names, or that the directory
    does, where a creation was cut short. Raises StorageError.
    """
    named = database_uri(directory)
    if uri is not None:
        check_uri(uri)
        if (directory / DATABASE_NAME).exists() or named not in (None, uri):
            raise StorageError(f"{directory} has another database already; choose another directory")
    elif named is None:
        return SqliteDatabase(directory / DATABASE_NAME, create=True)
    database = PostgresDatabase(str(uri or named))
    try:
        database.check_fit()
    except BaseException:
        database.close()
        raise
    return database


def new_copy(directory: Path, uri: str) -> Database:
    """Return the PostgreSQL database that a keystore in SQLite shall be moved into; the caller closes it. Raises StorageError."""
    check_uri(uri)
    check_exists(directory)
    database = PostgresDatabase(uri)
    try:
        database.check_fit()
    except BaseException:
        database.close()
        raise
    return database


def switch_database(directory: Path, uri: str) -> None:
    """Let a directory name the database that its keystore was copied to, in one step; its file counts no more. Raises OSError."""
    durable.replace(directory / MOVING_NAME, b"", durable.SECRET_MODE)
    remember_database(directory, uri)


def put_aside(directory: Path) -> None:
    """Rename the file whose keystore was moved; also where a move was killed before it did. Raises StorageError."""
    try:
        for suffix in ("-wal", "-shm", ""):
            if (directory / (DATABASE_NAME + suffix)).exists():
                (directory / (DATABASE_NAME + suffix)).replace(directory / (DATABASE_NAME + MOVED_SUFFIX + suffix))
        durable.sync_directory(directory)
        (directory / MOVING_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{directory / DATABASE_NAME} can not be put aside ({error.strerror}); do so by hand"
        ) from error


def remember_database(directory: Path, uri: str) -> None:
    """Let a directory name the PostgreSQL database that its keystore is in. Raises OSError."""
    durable.replace(directory / URI_NAME, f"{uri}\n".encode(), durable.SECRET_MODE)


def database_uri(directory: Path) -> str | None:
    """Return the PostgreSQL database that a directory names, None where it has SQLite's file. Raises StorageError."""
    try:
        text = durable.read_regular(directory / URI_NAME, MAX_URI_BYTES).decode().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{directory / URI_NAME} can not be read ({type(error).__name__}); mend it") from None
    if (directory / DATABASE_NAME).exists() and not (directory / MOVING_NAME).exists():
        raise StorageError(
            f"{directory} has a {DATABASE_NAME} and a {URI_NAME}; move the one away that is not its keystore"
        )
    return text


@contextmanager
def reading(directory: Path) -> Iterator[Connection]:
    """A transaction on a keystore's database that writes nothing, nowhere. Raises StorageError, SchemaError."""
    check_exists(directory)
    uri = database_uri(directory)
    if uri is None:
        with read_only(directory / DATABASE_NAME) as connection:
            check_schema(connection, str(directory / DATABASE_NAME))
            yield connection
        return
    database = PostgresDatabase(uri)
    try:
        with database.read() as connection:
            check_schema(connection, database.name)
            yield connection
    finally:
        database.close()
