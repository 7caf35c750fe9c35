"""An inbox in a bucket: what a run hands sealed keys in at, and what carries them to the keystore's ingest and its receipts back.

The keystore knows folders only. `Courier` brings the shards of a bucket into one, the spool, and takes a shard out of the bucket
when its receipt lies there. A courier that dies at any point leaves what the next one goes on with.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Final

from jobs.ahead import ahead
from jobs.storage.store import Store
from keystore.intake.folder import RUN_ID, SPOOLS, FolderInbox
from keystore.intake.receipts import MAX_RECEIPT_BYTES, RECEIPT_SUFFIX
from keystore.intake.shards import MAX_SHARD_BYTES, SHARD_SUFFIX

# Apart from the shards, and no run's name: looking for shards, every two seconds, lists no receipt.
RECEIPTS: Final = "_receipts"
DELIVERED_AT_ONCE: Final = 1000  # receipts, before their shards are taken out of the bucket, by one request
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class BucketInbox:
    """An `InboxPlace` in a store: `<run>/<shard>.keys` and `_receipts/<run>/<shard>.receipt`. It travels to the workers without a
    connection."""

    store: Store

    def put(self, run_id: str, name: str, data: bytes) -> None:
        """See InboxPlace; raises MachineError too, as all its calls."""
        self.store.create(_path(run_id, name), data)

    def get(self, run_id: str, name: str, limit: int) -> bytes:
        """See InboxPlace."""
        return self.store.read(_path(run_id, name), limit)

    def get_many(self, run_id: str, names: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """See InboxPlace."""
        return zip(names, ahead(partial(self.get, run_id, limit=limit), names), strict=True)

    def names(self, run_id: str, suffix: str, after: str = "") -> list[str]:
        """See InboxPlace."""
        return sorted(self.store.children(_path(run_id, suffix).rpartition("/")[0], suffix, after))

    def remove(self, run_id: str, names: Sequence[str]) -> None:
        """See InboxPlace."""
        self.store.delete_all([_path(run_id, name) for name in names])

    def holds(self, run_id: str, name: str) -> bool:
        """Whether a file is there; its content is not read, which a run may not do."""
        return bool(self.store.existing([_path(run_id, name)]))

    def shards(self) -> Iterator[tuple[str, int]]:
        """Names and bytes of all that is called a shard, sorted; the receipts, which lie together, are passed over."""
        receipts = f"{RECEIPTS}/"
        before = takewhile(lambda found: found[0] < receipts, self.store.sizes(""))
        beyond = self.store.sizes("", after=f"{RECEIPTS}0")  # "0" comes next to "/"
        return (found for found in chain(before, beyond) if found[0].endswith(SHARD_SUFFIX))

    def __str__(self) -> str:
        return str(self.store)


def _path(run_id: str, name: str) -> str:
    return f"{RECEIPTS}/{run_id}/{name}" if name.endswith(RECEIPT_SUFFIX) else f"{run_id}/{name}"


class Courier:
    """Between an inbox in a bucket and its spool, a folder that an ingest takes in from."""

    def __init__(self, inbox: BucketInbox, keystore: Path) -> None:
        self.inbox = inbox
        name = hashlib.sha256(str(inbox).encode()).hexdigest()[:16]
        self.spool = FolderInbox(keystore / SPOOLS / name)

    def fetch(self) -> None:
        """Bring every shard that is not there yet into the spool, several at a time. A file that can be none is said on the log
        and left. Raises MachineError, OSError, StorageError."""
        deque(ahead(self._bring, self._wanted(), weigh=lambda found: found[2]), maxlen=0)

    def _wanted(self) -> Iterator[tuple[str, str, int]]:
        """Run, name and bytes of each shard that the spool lacks."""
        held: dict[str, set[str]] = {}
        for path, size in self.inbox.shards():
            run_id, _, name = path.partition("/")
            if not RUN_ID.fullmatch(run_id) or "/" in name or name.startswith(".") or size > MAX_SHARD_BYTES:
                _LOGGER.warning("%s/%s is no key shard; find out who put it there", self.inbox, path)
                continue
            if run_id not in held:
                held[run_id] = set(self.spool.names(run_id, SHARD_SUFFIX))
            if name not in held[run_id]:
                yield run_id, name, size

    def _bring(self, found: tuple[str, str, int]) -> None:
        run_id, name, _ = found
        try:
            self.spool.put(run_id, name, self.inbox.get(run_id, name, MAX_SHARD_BYTES))
        except (FileExistsError, FileNotFoundError):  # another courier brought it, or took it away after its receipt
            return

    def deliver(self) -> None:
        """Leave the receipts of the spool in the bucket, several at a time, and take out of it the shards that were taken in, no
        shard before its receipt lies there. One that lies there stays. Raises MachineError, OSError, StorageError."""
        for run_id in self.spool.runs(RECEIPT_SUFFIX):
            waiting = set(self.spool.names(run_id, SHARD_SUFFIX))  # something in them was rejected: a person's to see
            receipts = iter(self.spool.names(run_id, RECEIPT_SUFFIX))
            while some := list(islice(receipts, DELIVERED_AT_ONCE)):
                deque(ahead(partial(self._leave, run_id), some), maxlen=0)
                shards = [receipt.removesuffix(RECEIPT_SUFFIX) + SHARD_SUFFIX for receipt in some]
                self.inbox.remove(run_id, [shard for shard in shards if shard not in waiting])
                self.spool.remove(run_id, some)

    def _leave(self, run_id: str, receipt: str) -> None:
        data = self.spool.get(run_id, receipt, MAX_RECEIPT_BYTES)
        try:
            self.inbox.put(run_id, receipt, data)
        except FileExistsError:
            _LOGGER.debug("%s/%s/%s was there", self.inbox, run_id, receipt)
