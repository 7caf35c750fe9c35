"""The door that a job hands its keys in at: the ingest key file and the inbox. It needs no KEK and no database.

The keystore's own process takes in what lies there (`keyanon keystore ingest --follow`) and leaves a receipt for each shard.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from keystore.errors import ShardExistsError, StorageError, TamperedError
from keystore.intake.folder import InboxPlace
from keystore.intake.ingest_key import IngestKey
from keystore.intake.receipts import MAX_RECEIPT_BYTES, RECEIPT_SUFFIX, Receipt, parse_receipt
from keystore.intake.sealing import Sealer
from keystore.intake.shards import SHARD_SUFFIX, shard_bytes, shard_file


@dataclass(frozen=True)
class IngestDoor:
    """Where the keys of runs are handed in; it travels to the workers and holds nothing secret."""

    key: IngestKey
    inbox: InboxPlace

    def sealer(self, run_id: str, dataset: str) -> Sealer:
        """Return what seals the records of one block of a run. Raises InvalidRecordError: the public key is malformed."""
        return Sealer(self.key.public_key, run_id, dataset)

    def hand_in(self, run_id: str, shard: str, sealed: Sequence[bytes]) -> str:
        """Publish a shard, durably; return its SHA-256 in hexadecimal.

        Raises ShardExistsError (what is there is left as it is), InvalidRecordError, StorageError.
        """
        name, data = shard_file(shard), shard_bytes(sealed)
        try:
            self.inbox.put(run_id, name, data)
        except FileExistsError as error:
            raise ShardExistsError(
                f"{self.inbox}/{run_id}/{name} exists and was not overwritten; ingest it, or choose another shard name"
            ) from error
        except OSError as error:
            raise StorageError(
                f"sealed shard {self.inbox}/{run_id}/{name} can not be written ({error.strerror or error}); free "
                "space or mend the permissions"
            ) from error
        return hashlib.sha256(data).hexdigest()

    def waiting(self, run_id: str) -> list[str]:
        """Return the shards that were not taken in yet, or that hold a record that was rejected."""
        return [name.removesuffix(SHARD_SUFFIX) for name in self.inbox.names(run_id, SHARD_SUFFIX)]

    def discard(self, run_id: str, committed: Collection[str]) -> list[str]:
        """Remove the shards that nothing was published with and that were not taken in. Return their names."""
        orphans = sorted(set(self.waiting(run_id)) - set(committed))
        self.inbox.remove(run_id, [shard_file(name) for name in orphans])
        return orphans

    def receipted(self, run_id: str, first: str = "") -> set[str]:
        """Return the shards, from the name `first` on, of which something lies there that is called a receipt of theirs."""
        return {name.removesuffix(RECEIPT_SUFFIX) for name in self.inbox.names(run_id, RECEIPT_SUFFIX, after=first)}

    def forget(self, run_id: str) -> int:
        """Remove all receipts of a run that needs them no more; how many."""
        receipts = self.inbox.names(run_id, RECEIPT_SUFFIX)
        self.inbox.remove(run_id, receipts)
        return len(receipts)

    def receipts(self, run_id: str, shards: Collection[str]) -> Iterator[Receipt]:
        """Yield the receipt of each of a run's shards.

        Raises TamperedError: one is not signed by the keystore, or is another run's. StorageError.
        """
        names = [shard + RECEIPT_SUFFIX for shard in shards]
        found = self.inbox.get_many(run_id, names, MAX_RECEIPT_BYTES)
        for expected in names:
            file = f"{self.inbox}/{run_id}/{expected}"
            try:
                name, data = next(found)
            except OSError as error:
                if error.errno in (errno.EFBIG, errno.EINVAL, errno.ELOOP):  # too large, or no plain file
                    raise TamperedError(
                        f"receipt {file} is none of the keystore's; find out who put it there"
                    ) from error
                raise StorageError(f"receipt {file} can not be read ({error.strerror or error})") from error
            assert name == expected, "they come in their order"
            receipt = parse_receipt(data, file, self.key.audit_vkey)
            if receipt.run_id != run_id:
                raise TamperedError(f"receipt {file} is of run {receipt.run_id}; find out who put it there")
            yield receipt
