"""What an older schema's keystore gets when it is opened: tags for its people, an account of what it holds, and epoch keys.

Done under the KEK, once: every key and envelope is opened, and how many did not open is in the log, where the verifier finds it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, select

from keystore.audit.log import LogWriter
from keystore.audit.signers import LogSigner
from keystore.errors import TamperedError
from keystore.intake import runs
from keystore.intake.folder import RUN_ID
from keystore.storage import schema
from keystore.vault import epochs, ingest_signer
from keystore.vault.accounts import account, own_keys_account, record_digest
from keystore.vault.keyring import Keyring
from keystore.vault.records import RecordVault

_FIRST_ACCOUNTED = b'"own_keys":'


def lacks_account(connection: Connection) -> bool:
    """Return whether this keystore was made before its log accounted for what it holds, and has no inventory yet."""
    entries = select(schema.log.c.seq, schema.log.c.leaf).order_by(schema.log.c.seq)
    for seq, leaf in connection.execute(entries.execution_options(yield_per=100)):
        if _FIRST_ACCOUNTED in leaf:
            return False
        if seq == 0 and b'"type":"created"' not in leaf:
            return False  # no log of ours: for the verifier, not for an upgrade
    return True


def needed(connection: Connection) -> bool:
    """Return whether anything of `bring_up_to_date` is left to do."""
    return _lacks_ingest_signer(connection) or epochs.lacks_epochs(connection) or lacks_account(connection)


def _lacks_ingest_signer(connection: Connection) -> bool:
    return connection.execute(select(schema.identity.c.ingest_vkey)).scalar() is None


def bring_up_to_date(
    connection: Connection, log: LogWriter, keyring: Keyring, signer: LogSigner, vault: RecordVault, inbox: Path
) -> None:
    """Do what is needed within one writing transaction. `keyring` has all purposes. Raises whatever the database raises."""
    accounted = not lacks_account(connection)  # asked first: the next entry speaks of accounts too
    if _lacks_ingest_signer(connection) or epochs.lacks_epochs(connection):
        unopened = epochs.adopt(connection, log, keyring)
        if _lacks_ingest_signer(connection):
            ingest_signer.add(connection, log, keyring, signer, vault.keystore_id)
        log.append("epochs", own_keys=own_keys_account(connection), unopened=unopened)
    if not accounted:
        take_inventory(connection, log, vault)
        register_runs(connection, log, inbox)


def register_runs(connection: Connection, log: LogWriter, inbox: Path) -> None:
    """Register the runs whose shards waited in the inbox when this keystore was upgraded."""
    for directory in sorted(inbox.glob("*")):
        if directory.is_dir() and not directory.is_symlink() and RUN_ID.fullmatch(directory.name):
            records = schema.records
            query = select(records.c.dataset).where(records.c.run_id == directory.name).distinct()
            datasets = list(connection.execute(query).scalars())
            runs.register(connection, log, directory.name, datasets[0] if len(datasets) == 1 else None)


def take_inventory(connection: Connection, log: LogWriter, vault: RecordVault) -> None:
    """Account for every record that is stored, in one entry of the log."""
    entry, unopened = log.size, 0
    brought = int(connection.execute(select(func.sum(schema.shards.c.records))).scalar() or 0)
    records = schema.records
    digests = []
    for row in connection.execute(select(records)).all():
        digests.append(record_digest(row._asdict()))
        try:
            unopened += vault.open(connection, (row.record_id, row.dataset, row.image_id)) is None
        except TamperedError:
            unopened += 1
    connection.execute(records.update().values(entry=entry))
    log.append(
        "inventory",
        missing=brought - len(digests),
        own_keys=own_keys_account(connection),
        records=len(digests),
        records_account=account(digests),
        unopened=unopened,
    )
