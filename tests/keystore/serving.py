"""A keystore that is served: the real command in a process of its own, with real TLS or on this machine's own address."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keystore.decisions.api_token import Role
from keystore.served import ServedKeystore
from keystore.service.client import ServiceClient
from keystore.service.token_file import TokenFile

START_SECONDS = 60
COMMAND = (sys.executable, "-m", "jobs.commands.cli", "keystore", "serve")


class Served:
    """One server process and who may ask it."""

    def __init__(
        self, path: Path, tls: Path | None, *, command: tuple[str, ...] = COMMAND, more: tuple[str, ...] = ()
    ) -> None:
        self.path, self.tls, self.command, self.more = path, tls, command, more
        self.log = path.parent / "serve.log"
        self.tokens: dict[tuple[str, str, str | None], str] = {}
        self.start()

    def start(self, port: int = 0) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.command, *self.arguments(port)], stderr=log, stdout=log, env={**os.environ}
            )
        until = time.monotonic() + START_SECONDS
        while not any(line.get("event") == "listening" for line in self.lines()):
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)
        self.port = next(line["port"] for line in self.lines() if line["event"] == "listening")
        self.url = f"http{'' if self.tls is None else 's'}://127.0.0.1:{self.port}"
        self.ssl = ssl.create_default_context(cafile=None if self.tls is None else self.tls / "cert.pem")
        self.http = httpx2.Client(base_url=self.url, verify=self.ssl, timeout=60, trust_env=False)

    def arguments(self, port: int) -> list[str]:
        said = [str(self.path), "--port", str(port), *self.more]
        if self.tls is not None:
            said += ["--tls-certificate", str(self.tls / "cert.pem"), "--tls-key", str(self.tls / "key.pem")]
        return said

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def token(self, role: str, person: str, dataset: str | None = None) -> str:
        """A token, made once."""
        if (role, person, dataset) not in self.tokens:
            with ServedKeystore.open(self.path) as keystore:
                made = keystore.issue_token(person, Role(role), timedelta(days=1), "oscar", dataset=dataset)
            self.tokens[role, person, dataset] = made
        return self.tokens[role, person, dataset]

    def call(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx2.Response:
        headers = more.pop("headers", {}) | ({} if token is None else {"Authorization": f"Bearer {token}"})
        return self.http.request(method, path, headers=headers, **more)

    def token_file(self, path: Path, role: str, person: str, dataset: str | None = None) -> Path:
        """The file that a token is given to its holder in."""
        with ServedKeystore.open(self.path) as keystore:
            vkey = keystore.audit_vkey
        TokenFile.claim(path)
        TokenFile(self.token(role, person, dataset), vkey).write(path)
        return path

    def client(self, role: str, person: str, dataset: str | None = None) -> ServiceClient:
        with ServedKeystore.open(self.path) as keystore:
            vkey = keystore.audit_vkey
        return ServiceClient(self.url, TokenFile(self.token(role, person, dataset), vkey))

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


def make_certificate(directory: Path) -> None:
    """Write cert.pem and key.pem of an authority of its own, for 127.0.0.1 and localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keystore")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
