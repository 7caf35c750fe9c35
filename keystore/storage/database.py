"""A keystore's database: its transactions and its schema, the same in SQLite (storage.sqlite) and PostgreSQL.

A writing transaction takes the database's one lock when it begins, so that what it reads is still true when it writes: two
processes that release one grant at once are put in a row, and the second finds it used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.exc import DBAPIError

from keystore.errors import SchemaError, StorageError

BUSY_TIMEOUT_MILLISECONDS = 30_000  # that a transaction waits for the one that writes
WRITE_OPTION = "keystore_write"
REMAKING_OPTION = "keystore_remaking_tables"
_MIGRATIONS = Path(__file__).parent / "migrations"


@cache
def _revisions() -> tuple[str, ...]:
    """The schema revisions this program knows, newest first; read once, since alembic compiles the scripts each time."""
    return tuple(script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions())


class Database(ABC):
    """Connections to one database, and the two kinds of transaction. `name`: what messages call it."""

    _driver_errors: tuple[type[Exception], ...] = (DBAPIError,)

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self._engine = engine
        event.listen(engine, "begin", self._on_begin)

    @abstractmethod
    def _on_begin(self, connection: Connection) -> None:
        """Begin a transaction: one that holds the lock, or one that sees a single state."""

    @abstractmethod
    def _error(self, error: Exception) -> StorageError:
        """Return what an error of the driver means, and what to do."""

    @abstractmethod
    def fold(self) -> None:
        """After an erasure: see to it that no older state of a row that is gone lies in the database. Raises StorageError."""

    @abstractmethod
    def _check_remade(self, connection: Connection) -> None:
        """Check what a migration made. Raises TamperedError."""

    @contextmanager
    def write(self, *, remaking_tables: bool = False) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first moment and commits at the end. Raises StorageError.

        `remaking_tables`: without foreign keys, which would follow a table that is dropped to be made anew.
        """
        options = {WRITE_OPTION: True, REMAKING_OPTION: remaking_tables}
        with (
            self._told(),
            self._engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one unchanging state. Raises StorageError."""
        with self._told(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        # Not chained: what a driver says of a row quotes it, and a traceback would show names and purposes.
        told: StorageError | None = None
        try:
            yield
        except self._driver_errors as error:
            told = self._error(error)
        if told is not None:
            raise told from None

    def migrate(self) -> None:
        """Bring the schema to this program's revision. Raises SchemaError when it is newer or unknown."""
        with self.read() as connection:
            if self._revision(connection) == _revisions()[0]:
                return
        try:
            with self.write(remaking_tables=True) as connection:
                if self._revision(connection) != _revisions()[0]:
                    config = Config()
                    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    self._check_remade(connection)
        finally:
            self._engine.dispose()  # the next connection checks foreign keys again

    def _revision(self, connection: Connection) -> str | None:
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is not None and revision not in _revisions():
            raise _newer(self.name, revision)
        return revision

    def has_table(self, name: str) -> bool:
        """Return whether the database has a table of that name."""
        with self.read() as connection:
            return inspect(connection).has_table(name)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def check_schema(connection: Connection, name: str) -> None:
    """Raise SchemaError unless a database that is only read has this program's schema."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in _revisions():
        raise _newer(name, revision)
    if revision is not None and revision != _revisions()[0]:  # None: no keystore; reading its tables says so
        raise SchemaError(
            f"keystore database {name} has the older schema {revision}; open it once with its KEK, which brings it up to date"
        )


def _newer(name: str, revision: str) -> SchemaError:
    return SchemaError(
        f"keystore database {name} has schema {revision}, newer than this program knows ({_revisions()[0]}); upgrade keyanon"
    )
