"""The door that a job hands its keys in at: the ingest public key and the inbox. It needs no KEK and no database.

The keystore's own process takes in what lies there (`keyanon keystore ingest --follow`) and leaves a receipt for each shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keystore.errors import TamperedError
from keystore.intake.inbox import remove_shards, run_directory, shard_names
from keystore.intake.receipts import RECEIPT_SUFFIX, Receipt, read_receipt
from keystore.intake.sealing import Sealer
from keystore.intake.shards import write_shard
from keystore.opening import read_public_key


class IngestDoor:
    """Where the keys of runs are handed in. `audit_vkey` is the keystore's verifier key, to know its receipts by."""

    def __init__(self, ingest_key: Path, inbox: Path, audit_vkey: str) -> None:
        self.public_key = read_public_key(ingest_key)
        self._inbox = inbox
        self._audit_vkey = audit_vkey

    def sealer(self, run_id: str, dataset: str) -> Sealer:
        """Return what seals the records of one block of a run. Raises InvalidRecordError: the public key is malformed."""
        return Sealer(self.public_key, run_id, dataset)

    def directory(self, run_id: str) -> Path:
        """Return where a run's shards go, created if missing. Raises InvalidRecordError, StorageError."""
        return run_directory(self._inbox, run_id)

    def hand_in(self, run_id: str, shard: str, sealed: Sequence[bytes]) -> Path:
        """Publish a shard, durably. Raises ShardExistsError, InvalidRecordError, StorageError."""
        return write_shard(self.directory(run_id), shard, sealed)

    def waiting(self, run_id: str) -> list[str]:
        """Return the shards that were not taken in yet, or that hold a record that was rejected."""
        return shard_names(self._inbox, run_id)

    def discard(self, run_id: str, committed: Sequence[str]) -> list[str]:
        """Remove the shards that nothing was published with and that were not taken in. Return their names."""
        orphans = sorted(set(self.waiting(run_id)) - set(committed))
        remove_shards(self._inbox, run_id, orphans)
        return orphans

    def receipts(self, run_id: str) -> dict[str, Receipt]:
        """Return the receipts of a run's shards, by shard.

        Raises TamperedError: one is not signed by the keystore, or is another run's. StorageError.
        """
        found: dict[str, Receipt] = {}
        for path in sorted(self.directory(run_id).glob(f"[!.]*{RECEIPT_SUFFIX}")):
            receipt = read_receipt(path, self._audit_vkey)
            if receipt.run_id != run_id:
                raise TamperedError(f"receipt {path} is of run {receipt.run_id}; find out who put it there")
            found[receipt.shard] = receipt
        return found

    def __repr__(self) -> str:
        return f"IngestDoor({str(self._inbox)!r})"
