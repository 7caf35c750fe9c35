"""The inbox over HTTP: what an ingest token may do with the runs of its data set. Nothing here opens a shard."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence

from keystore.decisions.tokens import Caller
from keystore.errors import InvalidRecordError, StorageError, TamperedError
from keystore.intake.folder import RUN_ID, FolderInbox
from keystore.intake.receipts import MAX_RECEIPT_BYTES, RECEIPT_SUFFIX
from keystore.intake.sealing import sealed_header
from keystore.intake.shards import SHARD_SUFFIX, parse_shard, shard_file
from keystore.served import ServedKeystore
from keystore.service.endpoints import MAX_SHARD_BODY_BYTES
from keystore.service.guard import HOUR, RUNS_PER_HOUR, CallError, Guard, nothing_here
from keystore.service.messages import EXISTS, FoundReceipt, InboxList, ReceiptPage

MAX_PAGE_BYTES = 8 * 1024 * 1024  # of receipts in one answer, after which no further one is added


def put(
    keystore: ServedKeystore,
    inbox: FolderInbox,
    guard: Guard,
    one_writer: threading.Lock,
    caller: Caller,
    run_id: str,
    shard: str,
    data: bytes,
) -> None:
    """Put a shard there, and announce its run where it is the first of it. Raises CallError, InvalidRecordError, StorageError."""
    assert caller.dataset is not None, "an ingest token is for one data set"
    name = shard_file(shard)
    if not RUN_ID.fullmatch(run_id):
        raise InvalidRecordError("that is not a run id; use letters, digits, '.', '_' and '-', 128 at most")
    _check_shard(data, run_id, caller.dataset)
    known, dataset = keystore.run_dataset(run_id)
    if known and dataset != caller.dataset:
        raise nothing_here()
    if not known:
        guard.hold(caller, "runs", RUNS_PER_HOUR, HOUR)
        with one_writer:
            keystore.announce_run(run_id, caller.dataset)
    try:
        inbox.put(run_id, name, data)
    except FileExistsError:
        if not _lies_there(inbox, run_id, name, data):
            raise CallError(409, EXISTS, "another shard of that name lies there; it was not overwritten") from None
    except OSError as error:
        raise StorageError(f"a shard can not be written into {inbox} ({error.strerror}); free space") from error


def _lies_there(inbox: FolderInbox, run_id: str, name: str, data: bytes) -> bool:
    """Whether a shard that was there has these bytes. True too where ingest took it meanwhile: the receipt says which it was."""
    try:
        return inbox.get(run_id, name, MAX_SHARD_BODY_BYTES) == data
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StorageError(f"a shard in {inbox} can not be read ({error.strerror}); mend it") from error


def _check_shard(data: bytes, run_id: str, dataset: str) -> None:
    """Raise InvalidRecordError unless these are the bytes of a shard whose every record says that it is of this run and data set.

    Ingest checks the same once more, where a record is open.
    """
    try:
        sealed = parse_shard(data, "as it came")
    except TamperedError as error:
        raise InvalidRecordError("the body is no whole shard") from error
    if not sealed:
        raise InvalidRecordError("the shard holds no record")
    for number, one in enumerate(sealed):
        header = sealed_header(one)
        if (header.run_id, header.dataset) != (run_id, dataset):
            raise InvalidRecordError(f"record {number} of the shard is of another run or data set than the token's")


def check_run(keystore: ServedKeystore, caller: Caller, run_id: str) -> None:
    """Raise CallError unless a run is known and of the caller's data set."""
    known, dataset = keystore.run_dataset(run_id)
    if not known or dataset != caller.dataset:
        raise nothing_here()


def remove(inbox: FolderInbox, run_id: str, shard: str) -> None:
    """Take a shard back."""
    inbox.remove(run_id, [shard_file(shard)])


def receipts(inbox: FolderInbox, run_id: str, shards: Sequence[str]) -> ReceiptPage:
    """Return the receipts of the first shards that are named, some MAX_PAGE_BYTES of them. Raises StorageError."""
    names = _receipt_files(shards)
    found: list[FoundReceipt] = []
    size = answered = 0
    for shard, name in zip(shards, names, strict=True):
        if size >= MAX_PAGE_BYTES:
            break
        try:
            data = inbox.get(run_id, name, MAX_RECEIPT_BYTES)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"a receipt in {inbox} can not be read ({error.strerror}); mend it") from error
        else:
            size += len(data)
            found.append(FoundReceipt(shard=shard, receipt=base64.b64encode(data)))
        answered += 1
    return ReceiptPage(answered=answered, receipts=found)


def remove_receipts(inbox: FolderInbox, run_id: str, shards: Sequence[str]) -> None:
    """Remove receipts; those that are not there are no error."""
    inbox.remove(run_id, _receipt_files(shards))


def _receipt_files(shards: Sequence[str]) -> list[str]:
    """Raises InvalidRecordError for a name that is no shard's."""
    return [shard_file(shard).removesuffix(SHARD_SUFFIX) + RECEIPT_SUFFIX for shard in shards]


def listing(inbox: FolderInbox, run_id: str, after: str) -> InboxList:
    """Return what lies there, by names beyond `after`."""
    return InboxList(
        waiting=[name.removesuffix(SHARD_SUFFIX) for name in inbox.names(run_id, SHARD_SUFFIX, after)],
        receipts=[name.removesuffix(RECEIPT_SUFFIX) for name in inbox.names(run_id, RECEIPT_SUFFIX, after)],
    )
