"""Where the keys of a run go: into a keystore that a process of its own has open, or in at a door: a public key and an inbox.

No process of the run reads a key-encryption key. Workers hand sealed shards in (`KeyInbox`); before the run is complete every
published row's key is acknowledged, by the keystore itself or by a receipt that it signed.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Protocol, TypeAlias

from jobs.errors import CommitError, ConfigError, KeysWaitingError, MachineError
from jobs.output.row_shards import KeyShard
from keystore import naming
from keystore.door import IngestDoor
from keystore.errors import PassingError, TamperedError
from keystore.intake.folder import INBOX_NAME, FolderInbox
from keystore.intake.ingest_key import IngestKey
from keystore.intake.receipts import Receipt
from keystore.intake.report import IngestReport, RejectedRecord
from keystore.keeper import Keeper, KeeperDiedError, KeeperProcess
from keystore.service.connection import TooManyCalls
from keystore.service.inbox_client import ServiceInbox
from keystore.service.pseudonyms import ServicePseudonyms

Records: TypeAlias = tuple[KeyShard, Collection[str]]  # a shard, and ids of records in it

SHARDS_AT_ONCE: Final = 500  # that the keystore, or the inbox, is asked of by one call
LOOK_SECONDS: Final = 1.0  # between looks for receipts
NO_RUN: Final = "no-run"  # an id that no run has
_SHOWN: Final = 3  # rejected records in a message


@dataclass(frozen=True)
class KeyInbox:
    """What a worker hands the keys of one run in at; it holds nothing secret."""

    door: IngestDoor
    run_id: str

    def hand_in(self, name: str, sealed: Sequence[bytes]) -> KeyShard:
        """Hand a shard in: it is durable on return. Raises KeystoreError, MachineError."""
        with alive():
            return KeyShard(name, self.door.hand_in(self.run_id, name, sealed))


class PseudonymDoor(Protocol):
    """Where the pseudonyms of a data set are asked for. It travels to the workers, and holds no secret."""

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        """Of each subject its secret, made at the first ask, and the number of its settled carrier. Raises KeystoreError."""

    def settle(self, subject: str, number: int) -> int:
        """Settle a subject's carrier unless one is settled already; the number that holds. Raises KeystoreError."""


class KeyHolder(ABC):
    """Where the keys of a run go. receipts: whether it says by them what it has taken in. warnings: for the run's report."""

    key: IngestKey
    receipts: ClassVar[bool] = False
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def __str__(self) -> str:
        """For messages: "keystore PATH", or so."""

    @abstractmethod
    def begin(self, run_id: str, dataset: str) -> KeyInbox:
        """What workers hand keys in at. Raises KeystoreError, MachineError."""

    @abstractmethod
    def pseudonyms(self, dataset: str) -> PseudonymDoor:
        """Where workers ask for the pseudonyms of a data set. Raises ConfigError: nowhere; KeystoreError, MachineError."""

    @abstractmethod
    def published(self, run_id: str, shard: KeyShard) -> None:
        """Pictures were published whose keys are in this shard. Raises MachineError."""

    @abstractmethod
    def take_in(self, run_id: str, rows: Mapping[KeyShard, int], settled: Collection[str] = ()) -> list[str]:
        """Have the keys of all published rows taken in; the shards that were removed because nothing was published with them.

        rows: how many rows have their keys in each shard. settled: names of shards that an earlier attempt saw taken in.

        Raises KeysWaitingError: somebody else takes them in, and has not yet. KeystoreError, MachineError.
        """

    @abstractmethod
    def settle(self, run_id: str) -> None:
        """All keys of the published rows are taken in, and that is written down: what only said so may go. Raises KeystoreError,
        MachineError."""

    @abstractmethod
    def missing(self, run_id: str, shards: Sequence[Records]) -> set[str]:
        """Those records of shards that were taken in which are neither in the keystore nor erased by right. Raises
        KeystoreError, MachineError."""

    @abstractmethod
    def why_missing(self) -> str:
        """What is known of records that are missing, and what to do."""


class OpenKeystore(Protocol):
    """A keystore that takes shards in; see `Keeper`, which is one."""

    path: Path

    def begin(self, run_id: str, dataset: str) -> None: ...
    def naming(self) -> str: ...
    def take_in_soon(self, run_id: str, shards: Sequence[str]) -> None: ...
    def ingest(self, run_id: str) -> IngestReport: ...
    def reconcile(self, run_id: str, committed: Sequence[str]) -> list[str]: ...
    def missing(self, record_ids: Collection[str]) -> set[str]: ...


class OwnKeystore(KeyHolder):
    """A keystore on this machine."""

    def __init__(self, keystore: OpenKeystore, key: IngestKey, warnings: tuple[str, ...] = ()) -> None:
        self.key, self.warnings, self._keystore = key, warnings, keystore
        self._rejected: list[RejectedRecord] = []

    @classmethod
    @contextlib.contextmanager
    def kept(
        cls, path: Path, kek: str | None, *, create: bool, process: KeeperProcess | None = None
    ) -> Iterator["OwnKeystore"]:
        """Opened by a process of its own, or made by it; process: see `Keeper`. Raises KeystoreError, MachineError."""
        with alive(), Keeper(path, kek, create=create, process=process) as keeper:
            yield cls(keeper, keeper.key, keeper.warnings)

    def __str__(self) -> str:
        return f"keystore {self._keystore.path}"

    def begin(self, run_id: str, dataset: str) -> KeyInbox:
        with alive():
            self._keystore.begin(run_id, dataset)
        return KeyInbox(IngestDoor(self.key, FolderInbox(self._keystore.path / INBOX_NAME)), run_id)

    def pseudonyms(self, dataset: str) -> PseudonymDoor:
        with alive():
            return naming.PseudonymDoor(self._keystore.naming(), dataset)

    def published(self, run_id: str, shard: KeyShard) -> None:
        with alive():
            self._keystore.take_in_soon(run_id, [shard.name])

    def take_in(self, run_id: str, rows: Mapping[KeyShard, int], settled: Collection[str] = ()) -> list[str]:
        with alive():
            removed = self._keystore.reconcile(run_id, [shard.name for shard in rows])
            self._rejected = self._keystore.ingest(run_id).rejected
        return removed

    def settle(self, run_id: str) -> None:
        pass  # it left no receipts

    def missing(self, run_id: str, shards: Sequence[Records]) -> set[str]:
        with alive():
            return self._keystore.missing({one for _, record_ids in shards for one in record_ids})

    def why_missing(self) -> str:
        return f"{_said(self._rejected)}restore its inbox, or anonymize again into an empty output"


class OutsideKeystore(KeyHolder):
    """A keystore that somebody else has; only its public keys and the inbox are known here.

    patience: seconds without a new receipt after which the run leaves the rest to a later one.
    """

    receipts = True

    def __init__(self, door: IngestDoor, patience: float) -> None:
        self.key, self._door, self._patience = door.key, door, patience
        self._rejected: list[RejectedRecord] = []

    def __str__(self) -> str:
        return f"keystore {self.key.keystore_id}, by the inbox {self._door.inbox}"

    def look(self) -> None:
        """Ask the inbox what a run asks it first. Raises KeystoreError, OSError, MachineError."""
        if not isinstance(self._door.inbox, FolderInbox):  # which would be given a folder for the run
            with alive():
                self._door.receipted(NO_RUN)

    def begin(self, run_id: str, dataset: str) -> KeyInbox:
        return KeyInbox(self._door, run_id)

    def pseudonyms(self, dataset: str) -> PseudonymDoor:
        inbox = self._door.inbox
        if not isinstance(inbox, ServiceInbox):
            raise ConfigError(f"the inbox {inbox} answers for no pseudonyms; give that of a served keystore")
        return ServicePseudonyms(inbox.url, inbox.token_file, dataset)

    def published(self, run_id: str, shard: KeyShard) -> None:
        pass  # whoever takes in looks into the inbox

    def take_in(self, run_id: str, rows: Mapping[KeyShard, int], settled: Collection[str] = ()) -> list[str]:
        with alive():
            return self._take_in(run_id, rows, settled)

    def _take_in(self, run_id: str, rows: Mapping[KeyShard, int], settled: Collection[str]) -> list[str]:
        removed = self._door.discard(run_id, {shard.name for shard in rows})
        waiting = {shard.name: count for shard, count in rows.items() if shard.name not in settled}
        last_change = time.monotonic()
        while waiting:
            come = waiting.keys() & self._door.receipted(run_id, min(waiting))
            for name in come:
                del waiting[name]
            if come:
                last_change = time.monotonic()
            elif time.monotonic() - last_change >= self._patience:
                self._check_none_is_lost(run_id, waiting.keys())
                raise KeysWaitingError(
                    f"the keys of {sum(waiting.values())} rows wait in the inbox {self._door.inbox} for keystore "
                    f"{self.key.keystore_id} to take them in; their pictures are published and the run is not complete. Start "
                    "`keyanon keystore ingest KEYSTORE --follow --accept DATASET` where the keystore is, or see what it says of "
                    f"run {run_id}, then run the same command again: it computes nothing anew"
                )
            else:
                time.sleep(min(LOOK_SECONDS, self._patience))
        return removed

    def _check_none_is_lost(self, run_id: str, shards: Collection[str]) -> None:
        there = set(self._door.waiting(run_id))  # looked at first: a receipt is written before its shard goes
        if lost := set(shards) - there - self._door.receipted(run_id):
            raise CommitError(
                f"{len(lost)} key shards of published rows are neither in the inbox {self._door.inbox} nor receipted (first: "
                f"{min(lost)}); restore the inbox, or anonymize again into an empty output"
            )

    def settle(self, run_id: str) -> None:
        with alive():
            self._door.forget(run_id)

    def missing(self, run_id: str, shards: Sequence[Records]) -> set[str]:
        expected: dict[str, list[Records]] = {}
        for one in shards:
            expected.setdefault(one[0].name, []).append(one)
        missing: set[str] = set()
        with alive():
            for receipt in self._door.receipts(run_id, expected):
                for shard, record_ids in expected[receipt.shard]:
                    self._check_is_of(receipt, shard, run_id)
                    missing |= set(record_ids) - {*receipt.stored, *receipt.erased}
                self._rejected += receipt.rejected[:_SHOWN]
        return missing

    def _check_is_of(self, receipt: Receipt, shard: KeyShard, run_id: str) -> None:
        if shard.sha256 is not None and receipt.shard_sha256 != shard.sha256:
            raise TamperedError(
                f"shard {shard.name} of run {run_id} was taken in with other bytes than this run handed in; find out who writes "
                f"into the inbox {self._door.inbox}, then anonymize again into an empty output"
            )

    def why_missing(self) -> str:
        return f"{_said(self._rejected)}anonymize again into an empty output"


def check_keys(holder: KeyHolder, run_id: str, shards: Iterator[Records]) -> None:
    """Raise CommitError unless every record of these shards is in the keystore, or erased by right."""
    lost = 0
    first = ""
    while some := list(islice(shards, SHARDS_AT_ONCE)):
        missing = holder.missing(run_id, some)
        lost += len(missing)
        first = first or min(missing, default="")
    if lost:
        raise CommitError(
            f"{lost} published pictures have no key in {holder} (first record: {first}); {holder.why_missing()}"
        )


@contextlib.contextmanager
def alive() -> Iterator[None]:
    """What is no fault of this run, a keystore that died, does not answer or has a full disk, as MachineError."""
    try:
        yield
    except KeeperDiedError as error:
        raise MachineError(str(error)) from error
    except (PassingError, TooManyCalls) as error:
        raise MachineError(f"{error}; when that is mended, run the same command again to go on") from error


def _said(rejected: list[RejectedRecord]) -> str:
    return "".join(f"{one.shard}[{one.index}]: {one.reason}; " for one in rejected[:_SHOWN])
