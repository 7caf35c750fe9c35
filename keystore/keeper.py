"""A process that opens a keystore for a run and takes its keys in, so that the one which sees pictures never reads the KEK.

`Keeper` starts it and asks it; `python -m keystore.keeper` is it. Between the two go lines of JSON, over its standard input and
output, with nothing secret in them. It ends when its input does: whoever started it may be killed.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from keystore import errors
from keystore.intake.ingest_key import IngestKey
from keystore.intake.report import IngestReport, ShardsNotTakenIn
from keystore.naming import NamingServer

if TYPE_CHECKING:
    from keystore.ingest_opening import IngestOpening

PATIENCE_SECONDS: Final = 300.0  # with a process that has hundreds of shards to take in, until it asks for more

_LOGGER = logging.getLogger(__name__)


class KeeperDiedError(errors.KeystoreError):
    """The process that keeps the keystore open has ended, and nobody asked it to; or it stands still."""


class KeeperProcess:
    """The process, which loads what opening a keystore takes and waits to be told of one. Who has much to load itself starts it
    before that, in a `with` statement: told of none it ends there at once."""

    def __init__(self) -> None:
        # Its modules are found where ours are, and not in the working directory.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
        self.started = subprocess.Popen(
            [sys.executable, "-P", "-m", "keystore.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.started:  # a `Keeper` that had it has waited for its end
            self.started.kill()


class Keeper:
    """A keystore that another process has open. Use it in a `with` statement, or `close` it. Any call raises KeeperDiedError."""

    def __init__(
        self, path: Path, kek_uri: str | None = None, *, create: bool = False, process: KeeperProcess | None = None
    ) -> None:
        """Let a process open the keystore, or `create` it where there is none. process: one that waits; None starts one.

        Raises KeystoreError.
        """
        self.path = path
        self._begin_with(process or KeeperProcess())
        try:
            opened = self._ask("open", path=str(path), kek=kek_uri, create=create)
        except BaseException:
            self.close()
            raise
        self.key = IngestKey(base64.b64decode(opened["ingest_key"]), opened["audit_vkey"])
        self.warnings: tuple[str, ...] = tuple(opened["warnings"])

    def _begin_with(self, process: KeeperProcess) -> None:
        self._process, self._one_at_a_time = process.started, threading.Lock()

    @classmethod
    def look(cls, path: Path, kek_uri: str | None = None) -> str:
        """Let a process open an existing keystore's database and its KEK, and close them: nothing is written. Returns the
        keystore's id. Raises KeystoreError."""
        looking = cls.__new__(cls)
        looking.path = path
        looking._begin_with(KeeperProcess())
        with looking:
            return str(looking._ask("look", path=str(path), kek=kek_uri))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def begin(self, run_id: str, dataset: str) -> None:
        """Announce a run; see IngestOpening.inbox."""
        self._ask("begin", run_id=run_id, dataset=dataset)

    def take_in_soon(self, run_id: str, shards: Sequence[str]) -> None:
        """Say that these shards may be taken in, and do not wait for it. What can not be stays, for `ingest` to say why."""
        with self._one_at_a_time:
            self._await_room()
            self._send({"call": "soon", "run_id": run_id, "shards": list(shards)})

    def ingest(self, run_id: str) -> IngestReport:
        """See IngestOpening.ingest."""
        answer = self._ask("ingest", run_id=run_id)
        report = IngestReport.model_validate(answer)
        if report.failed_shards:
            raise ShardsNotTakenIn.of(report)
        return report

    def reconcile(self, run_id: str, committed: Sequence[str]) -> list[str]:
        """See IngestOpening.reconcile."""
        return [str(name) for name in self._ask("reconcile", run_id=run_id, committed=list(committed))]

    def missing(self, record_ids: Iterable[str]) -> set[str]:
        """See IngestOpening.missing."""
        return set(self._ask("missing", record_ids=sorted(record_ids)))

    def naming(self) -> str:
        """Let the process answer for pseudonyms, and return the address that a `naming.PseudonymDoor` asks at."""
        return str(self._ask("naming"))

    def close(self) -> None:
        """Let the process end, and wait for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Keeper({str(self.path)!r}, process {self.pid})"

    def _ask(self, call: str, **arguments: Any) -> Any:
        with self._one_at_a_time:
            self._send({"call": call, **arguments})
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line.endswith("\n"):
                raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            raise errors.named(answer["error"], "refused", answer["message"])
        return answer["result"]

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _await_room(self) -> None:
        """Wait until a request of some hundred bytes can be sent without waiting: hundreds are queued when it can not."""
        assert self._process.stdin is not None
        with selectors.DefaultSelector() as writable:
            writable.register(self._process.stdin, selectors.EVENT_WRITE)
            if not writable.select(PATIENCE_SECONDS):
                self._process.kill()  # else `close` waits for it; what it was taking in stays in the inbox
                raise KeeperDiedError(
                    f"the process that keeps keystore {self.path} open took no request for {PATIENCE_SECONDS:g} s and was "
                    "ended; see to the disk of the keystore, then run the same command again"
                )

    def _died(self) -> KeeperDiedError:
        return KeeperDiedError(
            f"the process that keeps keystore {self.path} open has ended (exit code {self._process.wait()}); run the same "
            "command again"
        )


class _Kept:
    """What the process holds: the keystore, open for taking in."""

    def __init__(self) -> None:
        self._opened: IngestOpening | None = None
        self._kek: str | None = None
        self._server: NamingServer | None = None
        self._open_things = contextlib.ExitStack()

    def answer(self, request: dict[str, Any]) -> Any:
        """Return what a request asks for. Raises KeystoreError."""
        call = request.pop("call")
        return getattr(self, f"_{call}")(**request)

    def _open(self, path: str, kek: str | None, create: bool) -> dict[str, Any]:
        # Here alone: who asks needs no database, and loading one takes a second of each process of a run.
        from keystore.embedded import Keystore
        from keystore.ingest_opening import IngestOpening

        # The service brings an older keystore up to date and publishes its public keys; then only the ingest's keys are held.
        with (Keystore.open_or_create if create else Keystore.open)(path, kek) as service:
            said = {
                "ingest_key": base64.b64encode(service.ingest_public_key).decode(),
                "audit_vkey": service.audit_vkey,
                "warnings": list(service.warnings),
            }
        self._opened, self._kek = self._open_things.enter_context(IngestOpening.open(path, kek)), kek
        return said

    def _look(self, path: str, kek: str | None) -> str:
        from sqlalchemy import select

        from keystore import opening
        from keystore.storage import schema

        directory = Path(path)
        with contextlib.closing(opening.existing(directory)) as database:
            opening.open_matching_kek(database, directory, kek)
            with database.read() as connection:
                return str(connection.execute(select(schema.identity.c.keystore_id)).scalar_one())

    @property
    def opened(self) -> IngestOpening:
        assert self._opened is not None, "the first request opens"
        return self._opened

    def _begin(self, run_id: str, dataset: str) -> None:
        self.opened.inbox(run_id, dataset)

    def _soon(self, run_id: str, shards: list[str]) -> None:
        try:
            self.opened.ingest(run_id, shards)
        except errors.KeystoreError as error:  # said again, and not only to the log, by the `ingest` at the end
            _LOGGER.debug("not taken in yet: %s", error)

    def _ingest(self, run_id: str) -> dict[str, Any]:
        try:
            return self.opened.ingest(run_id).model_dump(mode="json")
        except ShardsNotTakenIn as error:
            return error.report.model_dump(mode="json")

    def _reconcile(self, run_id: str, committed: list[str]) -> list[str]:
        return self.opened.reconcile(run_id, committed)

    def _missing(self, record_ids: list[str]) -> list[str]:
        return sorted(self.opened.missing(record_ids))

    def _naming(self) -> str:
        if self._server is None:
            from keystore.naming_opening import NamingOpening

            names = self._open_things.enter_context(contextlib.closing(NamingOpening.open(self.opened.path, self._kek)))
            self._server = self._open_things.enter_context(NamingServer(names.pseudonyms))
        return self._server.address

    def close(self) -> None:
        """Close what is open."""
        self._open_things.close()


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    kept = _Kept()
    try:
        for line in requests:
            request = json.loads(line)
            silent = request["call"] == "soon"
            try:
                answer = {"result": kept.answer(request)}
            except errors.KeystoreError as error:
                kind = errors.PassingError.__name__ if errors.may_pass(error) else errors.public_name(error)
                answer = {"error": kind, "message": str(error)}
            if not silent:
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
    finally:
        kept.close()


def main() -> None:
    """Be that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for whoever started it, whose end is ours
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="keyanon: %(levelname)s: %(message)s")
    # Before it is asked: whoever started it is loading too.
    for module in ("keystore.embedded", "keystore.ingest_opening"):
        importlib.import_module(module)
    try:
        serve(sys.stdin, sys.stdout)
    except BrokenPipeError:  # nobody is there to hear the answer
        sys.stdout = None  # else Python tries to flush it


if __name__ == "__main__":
    main()
