"""A team's database: PostgreSQL, one writer at a time by an advisory lock, errors with a remedy.

Who writes waits for the lock before anything is read, and the statements after it see what its last holder committed (READ
COMMITTED): the same as SQLite's BEGIN IMMEDIATE, so that no two transactions ever have to be told that they got in each other's
way. Who reads sees one state (REPEATABLE READ, READ ONLY). The lock is no guard against an account that goes around this program:
that is what the primary keys and the roles are for (infra/postgresql/roles.sql).
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, create_engine

from keystore.errors import HiddenRecordError, PassingError, StorageError
from keystore.storage.database import BUSY_TIMEOUT_MILLISECONDS, WRITE_OPTION, Database

WRITE_LOCK = 0x6B65_7961_6E6F_6E31  # "keyanon1": the advisory lock's number, of the database that the keystore has
CONNECT_SECONDS = 10
SCHEMES = ("postgresql://", "postgres://")
SECRET_SETTINGS = ("password", "sslpassword", "oauth_client_secret")
_DEFAULTS = {"connect_timeout": CONNECT_SECONDS, "application_name": "keyanon keystore"}
_RECORD_IDS = "records_pkey"  # the constraint
_HERE = ("localhost", "127.0.0.1", "::1")

# By SQLSTATE, or its class.
_REMEDIES = {
    "08": "the connection was lost; see whether the server runs, and try again",
    "22021": "a text holds a character that it does not take; write it without",
    "23505": "another account wrote the same row meanwhile, around the lock; try again, and find out which",
    "25006": "it takes no writes (a standby, or set read-only); name the server that does",
    "40": "another account's transaction got in the way, around the lock; try again",
    "42501": "this account's role may not do that; use the account that may, or apply infra/postgresql/roles.sql as the owner",
    "42P01": "it is not a keystore's database, or its creation never finished; create the keystore again or restore a backup",
    "53": "the server is out of disk, memory or connections; free some and try again",
    "55P03": f"another process has held it for {BUSY_TIMEOUT_MILLISECONDS // 1000} s; wait for it and try again",
    "57": "the server was shut down or ended the connection; try again when it runs",
    "58": "the server's disk does not take writes or reads; look at the server",
    "XX": "the server says that it is corrupt; stop, and restore the last backup",
}
# What may pass: by SQLSTATE, and by the words of who was not even heard.
_PASSING = ("08", "40", "53", "55P03", "57", "58")
_AWAY = (
    "refused",
    "timed out",
    "timeout",
    "unreachable",
    "no route",
    "closed the connection",
    "is lost",
    "starting up",
    "too many",
)


def is_uri(text: str) -> bool:
    """Return whether a text names a PostgreSQL database."""
    return text.startswith(SCHEMES)


def check_uri(uri: str) -> dict[str, Any]:
    """Return the settings that a URI names. Raises StorageError, which quotes nothing of it: a password may be in it."""
    psycopg = _psycopg()
    if not is_uri(uri):
        raise StorageError(f"a keystore's database is named by {SCHEMES[0]}HOST/DATABASE; without it, SQLite is used")
    try:
        settings: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(uri)
    except psycopg.Error:
        raise StorageError(
            f"the database's URI can not be read; write {SCHEMES[0]}USER@HOST:PORT/DATABASE?sslmode=verify-full"
        ) from None
    if any(settings.get(name) for name in SECRET_SETTINGS):
        raise StorageError(
            "a password does not belong into the database's URI, which is stored and shown; put it into a password file "
            "(~/.pgpass, or PGPASSFILE) or into PGPASSWORD, and change the one that was typed"
        )
    return settings


class PostgresDatabase(Database):
    """Connections to one PostgreSQL database; what the URI leaves out is libpq's to find (PG* settings, password file)."""

    def __init__(self, uri: str) -> None:
        settings = check_uri(uri)
        psycopg = _psycopg()
        connect = {**_DEFAULTS, **_sslmode(settings), **settings}

        def connected() -> Any:
            connection = psycopg.connect(**connect, autocommit=True)
            for setting, value in (
                ("lock_timeout", f"{BUSY_TIMEOUT_MILLISECONDS}ms"),
                ("tcp_keepalives_idle", "30"),  # the lock of a machine that lost its power is free after a minute
                ("tcp_keepalives_interval", "10"),
                ("tcp_keepalives_count", "3"),
            ):
                connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
            # A commit survives a power cut, whatever the database's default; a stricter one is left.
            if connection.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                connection.execute("SET synchronous_commit = on")
            connection.autocommit = False
            return connection

        name = uri.split("?", 1)[0]
        super().__init__(
            name, create_engine("postgresql+psycopg://", creator=connected, pool_pre_ping=True, hide_parameters=True)
        )

    def _on_begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get(WRITE_OPTION, False):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def _error(self, error: Exception) -> StorageError:
        cause = getattr(error, "orig", None) or error
        diagnosis = getattr(cause, "diag", None)
        if getattr(diagnosis, "constraint_name", None) == _RECORD_IDS:
            # Who takes in sees the ids of its own data sets only, and the server does not say which it is.
            return HiddenRecordError(
                f"keystore database {self.name}: a record has the id of one that is stored in a data set which this account does "
                "not see. An id never changes its meaning: run the images again, and find out who put this there (the database's "
                "owner sees all ids, in table records)"
            )
        state = str(getattr(cause, "sqlstate", None) or "")
        # Never the detail, which quotes the row.
        said = getattr(diagnosis, "message_primary", None)
        if said is None and state == "":
            said = (
                " ".join(str(cause).split()) if isinstance(cause, _psycopg().OperationalError) else type(cause).__name__
            )
            remedy = (
                _REMEDIES["22021"]
                if isinstance(cause, _psycopg().DataError)
                else ("it can not be reached; check the server, the URI, the PG* settings and the password file")
            )
        else:
            remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or "nothing was changed"
        passes = state.startswith(_PASSING) if state else any(word in str(said).casefold() for word in _AWAY)
        kind = PassingError if passes else StorageError
        return kind(f"keystore database {self.name}: {remedy} ({said or state})")

    def _check_remade(self, connection: Connection) -> None:
        """Nothing: no foreign key was lifted."""

    def check_fit(self) -> None:
        """Raise StorageError unless the database keeps every text as it is."""
        with self.read() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StorageError(f"keystore database {self.name} is encoded in {encoding}; make one with ENCODING 'UTF8'")

    def fold(self) -> None:
        """Nothing: dead rows, the WAL and its archive are the server's, and what was erased dies in them with the KEK only."""


def _sslmode(settings: dict[str, Any]) -> dict[str, Any]:
    """Over a network the server must show a certificate for its name, unless somebody said otherwise."""
    if settings.get("service") or os.environ.get("PGSERVICE") or os.environ.get("PGSSLMODE"):
        return {}
    host = str(settings.get("hostaddr") or settings.get("host") or os.environ.get("PGHOST") or "")
    here = all(one in _HERE or one.startswith(("/", "@")) for one in host.split(",") if one)
    return {} if here else {"sslmode": "verify-full"}


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise StorageError("a keystore in PostgreSQL needs its driver: pip install 'keyanon[postgresql]'") from None
    return psycopg
