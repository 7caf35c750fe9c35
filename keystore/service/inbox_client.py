"""The inbox of a served keystore, as whoever hands shards in sees it (`InboxPlace`).

A keystore that restarts, or is asked too often, costs a run no more than the wait. Every call may be made twice: a shard that is
put again with the same bytes is taken as put, and what is removed again was gone.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from keystore.errors import ApprovalError, RequestNotFound, StorageError
from keystore.intake.receipts import RECEIPT_SUFFIX
from keystore.intake.shards import SHARD_SUFFIX
from keystore.service.connection import CallRefused, Connection, ServiceUnavailable, TooManyCalls, check_address
from keystore.service.endpoints import MAX_SHARD_BODY_BYTES
from keystore.service.messages import EXISTS, MAX_NAMED_SHARDS, InboxList, Me, NamedShards, ReceiptPage
from keystore.service.token_file import TokenFile

PATIENCE_SECONDS = 120.0  # after which a service that does not answer, or not yet, is an error
FIRST_WAIT_SECONDS = 0.5  # doubled with each try
LONGEST_WAIT_SECONDS = 15.0

_T = TypeVar("_T")
_connections: dict[ServiceInbox, Connection] = {}


@dataclass(frozen=True)
class ServiceInbox:
    """It travels to the workers without a connection and without the token: each process reads the token file where it runs."""

    url: str
    token_file: Path

    def __post_init__(self) -> None:
        """Raise StorageError for an address that is not https, or this machine's."""
        check_address(self.url)

    def me(self) -> Me:
        """Return whom the service takes the token for; it is asked once. Raises KeystoreError."""
        return self._connection().ask(Me, "GET", "/v1/me")

    def put(self, run_id: str, name: str, data: bytes) -> None:
        """See InboxPlace; raises KeystoreError, as all its calls."""
        if len(data) > MAX_SHARD_BODY_BYTES:
            raise StorageError(
                f"key shard {name} has {len(data)} bytes, and {self.url} takes {MAX_SHARD_BODY_BYTES}; gather fewer pictures "
                "(--pictures-per-task)"
            )
        try:
            self.again(lambda service: service.call("PUT", _shard(run_id, name), content=data))
        except CallRefused as error:
            if error.code != EXISTS:
                raise
            raise FileExistsError(errno.EEXIST, str(error), name) from error

    def get(self, run_id: str, name: str, limit: int) -> bytes:
        """See InboxPlace; receipts only: a shard is never given out."""
        ((_, data),) = self.get_many(run_id, [name], limit)
        return data

    def get_many(self, run_id: str, names: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """See InboxPlace; receipts only. One call for many, as long as they are small."""
        left = list(names)
        while left:
            asked = left[:MAX_NAMED_SHARDS]
            page = self._page(run_id, [name.removesuffix(RECEIPT_SUFFIX) for name in asked])
            found = {one.shard + RECEIPT_SUFFIX: one.receipt for one in page.receipts}
            for name in asked[: page.answered]:
                if name not in found:
                    raise FileNotFoundError(errno.ENOENT, f"{self.url} has no such receipt", name)
                if len(found[name]) > limit:
                    raise OSError(errno.EFBIG, f"it has {len(found[name])} bytes", name)
                yield name, found[name]
            left = left[page.answered :]

    def _page(self, run_id: str, shards: list[str]) -> ReceiptPage:
        named = NamedShards(shards=shards).model_dump()
        try:
            page = self.again(lambda service: service.ask(ReceiptPage, "POST", _receipts(run_id), named))
        except RequestNotFound:  # a run that never put a shard there
            return ReceiptPage(answered=len(shards), receipts=[])
        if not 0 < page.answered <= len(shards):
            raise ServiceUnavailable(f"{self.url} answers for {page.answered} of {len(shards)} receipts")
        return page

    def names(self, run_id: str, suffix: str, after: str = "") -> list[str]:
        """See InboxPlace. Of a run that never put a shard there are none."""
        try:
            found = self.again(lambda service: service.ask(InboxList, "GET", _run(run_id), params={"after": after}))
        except RequestNotFound:
            return []
        return sorted(name + suffix for name in (found.waiting if suffix == SHARD_SUFFIX else found.receipts))

    def remove(self, run_id: str, names: Sequence[str]) -> None:
        """See InboxPlace. Receipts go by one call for many."""
        receipts = [name.removesuffix(RECEIPT_SUFFIX) for name in names if name.endswith(RECEIPT_SUFFIX)]
        calls: list[tuple[str, str, object]] = [
            ("POST", _receipts(run_id) + "/removal", {"shards": receipts[first : first + MAX_NAMED_SHARDS]})
            for first in range(0, len(receipts), MAX_NAMED_SHARDS)
        ]
        calls += [("DELETE", _shard(run_id, name), None) for name in names if name.endswith(SHARD_SUFFIX)]
        for method, path, body in calls:
            with contextlib.suppress(RequestNotFound):
                self.again(partial(Connection.call, method=method, path=path, json=body))

    def __str__(self) -> str:
        return self.url

    def _connection(self) -> Connection:
        """This process's connection."""
        if self not in _connections:
            _connections[self] = Connection(self.url, TokenFile.read(self.token_file))
        return _connections[self]

    def again(self, call: Callable[[Connection], _T]) -> _T:
        """Call, again and again while the service is away or has enough. Raises KeystoreError."""
        until, wait = time.monotonic() + PATIENCE_SECONDS, FIRST_WAIT_SECONDS
        while True:
            try:
                return call(self._connection())
            except (ServiceUnavailable, TooManyCalls) as error:
                pause = max(wait, error.wait if isinstance(error, TooManyCalls) else 0.0)
                pause *= random.uniform(1.0, 1.5)
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            except ApprovalError:  # the token is not good: the file may hold another one the next time
                _connections.pop(self, None)
                raise


def _run(run_id: str) -> str:
    return f"/v1/inbox/{quote(run_id, safe='')}"


def _receipts(run_id: str) -> str:
    return f"{_run(run_id)}/receipts"


def _shard(run_id: str, name: str) -> str:
    return f"{_run(run_id)}/{quote(name.removesuffix(SHARD_SUFFIX), safe='')}"
