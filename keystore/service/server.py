"""The process that serves: TLS wherever others can listen, patience with nobody, one line when it is ready."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from keystore.errors import PolicyError, StorageError
from keystore.intake.folder import INBOX_NAME
from keystore.served import ServedKeystore
from keystore.service.app import create_app
from keystore.service.loopback import is_loopback
from keystore.service.observing import Metrics, Observed, log_line

if TYPE_CHECKING:
    from keystore.service.oidc.sign_in import SignIns

DEFAULT_PORT = 8443
HEADER_SECONDS = 10  # from the connection, or the last answer, to the end of the next call's headers
MAX_HEADER_BYTES = 16 * 1024
MAX_CONNECTIONS = 200
KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 20


@dataclass(frozen=True)
class Address:
    """Where to listen. certificate and key: PEM files, needed wherever `host` is not this machine only."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    certificate: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Raise StorageError where others could read what is said, or a file can not be used."""
        if (self.certificate is None) != (self.key is None):
            raise StorageError("TLS needs both a certificate and its key")
        if self.certificate is None or self.key is None:
            if not is_loopback(self.host):
                raise StorageError(f"{self.host} is not this machine only: give a TLS certificate and its key")
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, _no_password)
        except OSError as error:  # ssl.SSLError is one
            raise StorageError(
                f"certificate {self.certificate} and key {self.key} can not be used ({error.strerror or error}); give PEM "
                "files that belong together, the key without a password"
            ) from error


def _no_password() -> str:
    raise OSError("the key asks for a password")


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up on a client whose headers do not come."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers if self.started else ():
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                log_line("listening", host=host, port=port, tls=self.config.is_ssl)


def serve(
    path: Path,
    kek_uri: str | None,
    address: Address,
    inbox: Path | None = None,
    *,
    oidc: Path | None = None,
    may_break_glass: bool = False,
    join: Callable[[FastAPI], None] = lambda _: None,
) -> None:
    """Open a keystore and serve it until the process is told to end. Raises KeystoreError before anything listens.

    oidc: settings of the identity provider that people sign in through; may_break_glass: who the policy names may, over HTTPS
    too; join: adds what is above the service, such as the console, to its application.
    """
    address.check()
    _log_lines_only()
    with ServedKeystore.open(path, kek_uri) as keystore:
        _tell_policy(keystore)
        metrics = Metrics()
        sign_ins = None if oidc is None else _sign_ins(keystore, oidc)
        app = create_app(keystore, inbox or path / INBOX_NAME, metrics, sign_ins, may_break_glass=may_break_glass)
        join(app)
        run(Observed(app, metrics), address)


def run(app: ASGIApp, address: Address) -> None:
    """Serve an application until the process is told to end."""
    _log_lines_only()
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        http=ImpatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    _Server(config).run()


def _sign_ins(keystore: ServedKeystore, oidc: Path) -> SignIns:
    try:
        from keystore.service.oidc.settings import OidcSettings
        from keystore.service.oidc.sign_in import SignIns
    except ImportError as error:
        raise StorageError("signing in through a provider needs joserfc: pip install 'keyanon[oidc]'") from error
    settings = OidcSettings.read(oidc)
    sign_ins = SignIns(keystore, settings)
    log_line("sign-in", issuer=settings.issuer, callback=settings.callback)
    return sign_ins


def _tell_policy(keystore: ServedKeystore) -> None:
    try:
        policy = keystore.policy()
    except PolicyError:  # of an older version; nothing is approved under it
        return
    log_line("policy", approvals=policy.approvals, own_keys=policy.own_keys, roles=list(policy.roles))


def _log_lines_only() -> None:
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    told = logging.getLogger("keystore.service")
    told.handlers, told.propagate = [lines], False
    told.setLevel(logging.INFO)
