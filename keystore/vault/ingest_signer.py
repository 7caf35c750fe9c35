"""The key that ingest signs its entries of the log with: kept for ingest only, vouched for by the audit key."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from keystore.audit.log import LogWriter
from keystore.audit.signers import IngestSigner, LogSigner, certificate_message
from keystore.storage import schema
from keystore.vault import epochs
from keystore.vault.keyring import INGEST_LOG_KIND, OWN_SECRET, Keyring


def add(connection: Connection, log: LogWriter, keyring: Keyring, signer: LogSigner, keystore_id: str) -> None:
    """Make the key and its certificate; the log's next entry must account for the keystore's own keys."""
    key = Ed25519PrivateKey.generate()
    vkey = IngestSigner(keystore_id, key, signer.vkey).vkey
    wrapped = epochs.wrap(connection, log, keyring, key.private_bytes_raw(), INGEST_LOG_KIND, OWN_SECRET)
    connection.execute(schema.secrets.insert().values(name=INGEST_LOG_KIND, **wrapped))
    certificate = signer.sign_message(certificate_message(vkey))
    connection.execute(schema.identity.update().values(ingest_vkey=vkey, ingest_certificate=certificate))
