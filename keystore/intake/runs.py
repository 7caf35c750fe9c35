"""Runs: which of them this keystore knows, and the one data set whose records each may add.

Whoever can write into the inbox could otherwise name any data set, or a run of their own. A run is registered by who opens the
keystore for it; its data set is set once, and the log holds a salted commitment to it.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, sha256_hex, timestamp
from keystore.errors import InvalidRecordError
from keystore.storage import schema

RUN_SALT_BYTES = 32


def run_digest(run_id: str, dataset: str | None, salt: bytes) -> str:
    """Return what the log says of a run's data set."""
    return sha256_hex(canonical_json({"dataset": dataset, "run": run_id, "salt": salt.hex(), "type": "keyanon run v1"}))


def find(connection: Connection, run_id: str) -> Row[Any] | None:
    """Return a registered run's row, None for one that is unknown."""
    return connection.execute(select(schema.runs).where(schema.runs.c.run_id == run_id)).first()


def register(connection: Connection, log: LogWriter, run_id: str, dataset: str | None) -> None:
    """Register a run, or set the data set of one that has none yet; log either. Raises InvalidRecordError: it has another."""
    table, run = schema.runs, find(connection, run_id)
    if run is None:
        salt = os.urandom(RUN_SALT_BYTES)
        row = {"run_id": run_id, "dataset": dataset, "salt": salt, "registered_at": timestamp(log.now)}
        connection.execute(table.insert().values(**row))
    elif dataset is None or run.dataset == dataset:
        return  # another process was quicker
    elif run.dataset is None:
        salt = run.salt
        connection.execute(table.update().where(table.c.run_id == run_id).values(dataset=dataset))
    else:
        raise InvalidRecordError(f"run {run_id} adds to another data set; a run has one")
    log.append("run", digest=run_digest(run_id, dataset, salt), run=run_id)
