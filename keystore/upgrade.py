"""What an older schema's keystore gets when it is opened: tags for its people, and an account of what it holds.

The account is drawn up under the KEK, once: every envelope is opened, and how many did not open is in the log, where the
verifier finds it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, select

from keystore.audit.log import LogWriter
from keystore.errors import TamperedError
from keystore.intake import runs
from keystore.intake.inbox import RUN_ID
from keystore.storage import schema
from keystore.vault.accounts import account, key_digest, own_keys_account, record_digest
from keystore.vault.records import RecordVault

_FIRST_ACCOUNTED = b'"own_keys":'


def lacks_account(connection: Connection) -> bool:
    """Return whether this keystore was made before its log accounted for what it holds, and has no inventory yet."""
    for seq, leaf in connection.execute(select(schema.log.c.seq, schema.log.c.leaf).order_by(schema.log.c.seq)):
        if _FIRST_ACCOUNTED in leaf:
            return False
        if seq == 0 and b'"type":"created"' not in leaf:
            return False  # no log of ours: for the verifier, not for an upgrade
    return True


def register_runs(connection: Connection, log: LogWriter, inbox: Path) -> None:
    """Register the runs whose shards waited in the inbox when this keystore was upgraded."""
    for directory in sorted(inbox.glob("*")):
        if directory.is_dir() and not directory.is_symlink() and RUN_ID.fullmatch(directory.name):
            records = schema.records
            query = select(records.c.dataset).where(records.c.run_id == directory.name).distinct()
            datasets = list(connection.execute(query).scalars())
            runs.register(connection, log, directory.name, datasets[0] if len(datasets) == 1 else None)


def take_inventory(connection: Connection, log: LogWriter, vault: RecordVault) -> None:
    """Account for every record and key that is stored, in one entry of the log."""
    entry, unopened = log.size, 0
    brought = int(connection.execute(select(func.sum(schema.shards.c.records))).scalar() or 0)
    records, keys = schema.records, schema.shred_keys
    record_digests, key_digests = [], []
    for row in connection.execute(select(records)).all():
        record_digests.append(record_digest(row._asdict()))
        try:
            unopened += vault.open(connection, (row.record_id, row.dataset, row.image_id)) is None
        except TamperedError:
            unopened += 1
    for row in connection.execute(select(keys)).all():
        key_digests.append(key_digest(row._asdict()))
    connection.execute(records.update().values(entry=entry))
    connection.execute(keys.update().values(entry=entry))
    log.append(
        "inventory",
        keys=len(key_digests),
        keys_account=account(key_digests),
        missing=brought - len(record_digests),
        own_keys=own_keys_account(connection),
        records=len(record_digests),
        records_account=account(record_digests),
        unopened=unopened,
    )
