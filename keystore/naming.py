"""Asking for pseudonyms over a Unix socket: how a run's actors get their subjects' secrets from its keeper, past its driver.

Secrets go from the keeper's process to the actor's, on one machine, through a socket in a directory of its own that only this
account may enter; each end looks who the other is. A `PseudonymDoor` holds an address and nothing secret. No database is loaded
here: actors import this.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from keystore import errors
from keystore.vault.pseudonym_limits import MAX_SUBJECTS

PATIENCE_SECONDS: Final = 120.0  # with a keeper that waits for its database
MAX_LINE_BYTES: Final = 8 * 1024 * 1024

Secrets = Mapping[str, tuple[bytes, int | None]]
"""By subject: 32 secret bytes, and the number of the carrier that holds, None where none is settled."""


class Naming(Protocol):
    """What gives pseudonyms out, of a data set that each call names: `naming_opening.PseudonymDesk`."""

    def secrets(self, dataset: str, subjects: Collection[str]) -> Mapping[str, Any]: ...

    def settle(self, dataset: str, subject: str, number: int) -> int: ...


@dataclass(frozen=True)
class PseudonymDoor:
    """The pseudonyms of one data set, behind the socket at `address`. Any process of this account on this machine may ask.

    Calls raise PassingError when nobody answers, for a machine's fault that it is, and what the keystore raises.
    """

    address: str
    dataset: str

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        """Return secret and settled number of each subject; secrets are made at the first ask."""
        wanted, said = sorted(set(subjects)), dict[str, Any]()
        for first in range(0, len(wanted), MAX_SUBJECTS):
            said |= self._ask("secrets", subjects=wanted[first : first + MAX_SUBJECTS])
        return {subject: (base64.b64decode(secret), number) for subject, (secret, number) in said.items()}

    def settle(self, subject: str, number: int) -> int:
        """Settle a subject's carrier unless one is settled; return the number that holds."""
        return int(self._ask("settle", subject=subject, number=number))

    def _ask(self, call: str, **arguments: Any) -> Any:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(self.address)
                _check_peer(connection)
                request = {"call": call, "dataset": self.dataset, **arguments}
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    line = lines.readline(MAX_LINE_BYTES)
        except OSError as error:
            raise self._silent(str(error)) from error
        if not line.endswith(b"\n"):
            raise self._silent("it ended while it was asked")
        answer = json.loads(line)
        if "error" in answer:
            raise errors.named(answer["error"], "refused", answer["message"])
        return answer["result"]

    def _silent(self, why: str) -> errors.PassingError:
        return errors.PassingError(
            f"the process that keeps the keystore open does not answer for pseudonyms ({why}); run the same command again"
        )


class NamingServer:
    """Answers `PseudonymDoor`s from a thread of the process that has a keystore open, until it is closed."""

    def __init__(self, naming: Naming) -> None:
        """Raise StorageError where no socket can be made."""
        try:
            with contextlib.ExitStack() as undo:
                self._directory = Path(tempfile.mkdtemp(prefix="keyanon-"))
                undo.callback(shutil.rmtree, self._directory)
                self.address = str(self._directory / "names")
                self._server = _Server(self.address, _answering(naming))
                undo.pop_all()
        except OSError as error:  # a socket's address may have no more than 107 bytes, too
            raise errors.StorageError(
                f"no socket can be made in {tempfile.gettempdir()} ({error}); let TMPDIR name a short path that can be written"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="pseudonyms", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128  # actors that ask at once

    def __init__(self, address: str, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.answer, self.one_at_a_time = answer, threading.Lock()
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: who asked has gone, and what failed is told to who asks."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        _check_peer(self.connection)
        request = json.loads(self.rfile.readline(MAX_LINE_BYTES))
        try:
            with self.server.one_at_a_time:
                answer = {"result": self.server.answer(request)}
        except errors.KeystoreError as error:
            kind = errors.PassingError.__name__ if errors.may_pass(error) else errors.public_name(error)
            answer = {"error": kind, "message": str(error)}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def _answering(naming: Naming) -> Callable[[dict[str, Any]], Any]:
    def answer(request: dict[str, Any]) -> Any:
        call, dataset = request.pop("call"), request.pop("dataset")
        if call == "settle":
            return naming.settle(dataset, **request)
        found = naming.secrets(dataset, **request)
        return {subject: [base64.b64encode(one.secret).decode(), one.number] for subject, one in found.items()}

    return answer


def _check_peer(connection: socket.socket) -> None:
    """Raise PermissionError unless the process at the other end is of this account, where the system tells (Linux)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    with contextlib.suppress(struct.error):
        _, account, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if account == os.getuid():
            return
    raise PermissionError("the process at the other end of the socket is another account's")
