"""What `benchmarks/kills.py` kills: an S3 server, a Ray cluster of several nodes, a run, and the ingest that takes its keys in.

All are processes of their own, started as a user or an operator starts them, and started again when they have ended.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for what the tests start servers with

from jobs.errors import JobError  # noqa: E402
from jobs.exit_codes import ExitCode  # noqa: E402
from jobs.output.layout import shard_file  # noqa: E402
from jobs.output.row_shards import read_shard, row_shards  # noqa: E402
from jobs.storage.s3 import S3Store  # noqa: E402
from tests.jobs.seaweed import BUCKET, Seaweed, without_aws_settings  # noqa: E402

DRIVER, ACTOR, WRITE, NODE, SERVER, INGEST = "driver", "actor", "write task", "node", "S3 server", "ingest"
VICTIMS: Final = (DRIVER, ACTOR, WRITE, NODE, SERVER, INGEST)
DATASET: Final = "people"
PATIENCE_SECONDS: Final = 300.0  # for a process of the kind that is to be killed; an attempt may have to begin first
POLL_SECONDS: Final = 0.2
_TITLES: Final = {ACTOR: "ray::MapWorker(", WRITE: "ray::Write"}
_HARMLESS: Final = {ExitCode.TRY_AGAIN, -signal.SIGKILL}  # the codes after which the same command is run again


@dataclass
class Attempt:
    """One start of the run's command. standing: ids of the rows that were visible before. ended: its exit code."""

    number: int
    standing: frozenset[str]
    process: subprocess.Popen[bytes]
    ended: int | None = None
    said: str = ""


@dataclass
class Scene:
    """scratch: a folder for all that is not in the bucket. options: of `keyanon anonymize`. ms: see `counted_run.py`. away:
    seconds at most, before the killed server is started again."""

    scratch: Path
    workers: int
    options: Sequence[str]
    ms: str
    seed: int
    away: float
    attempts: list[Attempt] = field(default_factory=list)
    ingests: list[int] = field(default_factory=list)  # exit codes of those that ended
    _ids: dict[str, list[str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.chance = random.Random(self.seed)
        for folder in ("server", "computed"):
            (self.scratch / folder).mkdir()
        self.server = Seaweed(self.scratch / "server")
        self.server.start()
        self.photos, self.output, self.inbox = (f"s3://{BUCKET}/{name}" for name in ("photos", "out", "inbox"))
        self.store = S3Store.of(self.output, self.server.url)
        os.environ.update(self.server.environment)
        paths = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
        self.environment = {**without_aws_settings(), **self.server.environment, "PYTHONPATH": paths}
        self.keystore, self.key = self.scratch / "keystore", self.scratch / "ingest-key"
        assert self.keyanon("keystore", "init", self.keystore).returncode == ExitCode.OK
        self.key.write_text(self.json("keystore", "ingest-key", self.keystore)["ingest_key"])
        return self

    def begin(self) -> None:
        """Start the cluster, ingest, and the run."""
        self.nodes = subprocess.Popen(
            [sys.executable, "-m", "tests.infra.nodes", str(self.workers), str(self.scratch / "spill")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log("nodes"),
            text=True,
            cwd=ROOT,
            env=self.environment,
        )
        assert self.nodes.stdout is not None
        self.address = self.nodes.stdout.readline().strip()
        assert self.address, (self.scratch / "nodes.log").read_text()
        self._start_ingest()
        self._start_driver()

    def __exit__(self, *raised: object) -> None:
        for process in (self.attempts[-1].process if self.attempts else None, getattr(self, "ingest", None)):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        if hasattr(self, "nodes"):
            mine = list(_descendants(self.nodes.pid))
            assert self.nodes.stdin is not None
            self.nodes.stdin.close()
            try:
                self.nodes.wait(60)
            except subprocess.TimeoutExpired:
                self.nodes.kill()
            for pid, _ in mine:
                _kill(pid)
        self.server.stop()

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "jobs.commands.cli", *map(str, arguments)]

    def keyanon(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, env=self.environment)

    def json(self, *arguments: object) -> Any:
        """What a command prints with --json."""
        return json.loads(self.keyanon(*arguments, "--json").stdout)

    def tend(self) -> bool:
        """Start again what has ended and is to go on. True when the run has come to its end, well or not."""
        if (code := self.ingest.poll()) is not None:
            self.ingests.append(code)
            self._start_ingest()
        attempt = self.attempts[-1]
        attempt.ended = attempt.process.poll()
        if attempt.ended is None:
            return False
        attempt.said = _last_line(self._log_path(f"run-{attempt.number}"))
        if attempt.ended in _HARMLESS:
            self._start_driver()
            return False
        return True

    def visible(self) -> frozenset[str]:
        """Ids of the rows that are visible now. Raises JobError, OSError while the server is away."""
        for name in row_shards(self.store):
            if name not in self._ids:
                table = read_shard(self.store, shard_file(name), ["image_id"])
                self._ids[name] = table.column("image_id").to_pylist()
        return frozenset(one for ids in self._ids.values() for one in ids)

    def computed(self, attempt: Attempt) -> list[str]:
        """Ids of the rows that the workers of an attempt have done, as often as they did."""
        path = self._computed_path(attempt.number)
        return path.read_text().splitlines() if path.exists() else []

    def kill(self, victim: str) -> int | None:
        """Kill one process of a kind, and start anew what nobody else would. Its id; None: none came up, or the run ended."""
        pid = self._victim(victim)
        if pid is None:
            return None
        if victim == NODE:
            for child, _ in [*_descendants(pid)]:
                _kill(child)
        _kill(pid)
        if victim == SERVER:
            self.server.stop()
            time.sleep(self.chance.uniform(0, self.away))
            self.server.start()
        elif victim == NODE:
            assert self.nodes.stdin is not None
            self.nodes.stdin.write("another\n")
            self.nodes.stdin.flush()
        elif victim == INGEST:
            self.ingest.wait()
        elif victim == DRIVER:
            self.attempts[-1].process.wait()
        return pid

    def _victim(self, victim: str) -> int | None:
        if victim == SERVER:
            return self.server.pid
        if victim in (INGEST, DRIVER):
            return (self.ingest if victim == INGEST else self.attempts[-1].process).pid
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not self.tend():
            if found := self._of_kind(victim):
                return self.chance.choice(found)
            time.sleep(0 if victim == WRITE else POLL_SECONDS)  # a write takes a moment
        return None

    def _of_kind(self, victim: str) -> list[int]:
        running = sorted(_descendants(self.nodes.pid))
        if victim == NODE:  # the head, which has no CPU, is where the driver is
            return [pid for pid, title in running if "/raylet/raylet " in title and " --head " not in f"{title} "]
        return [pid for pid, title in running if title.startswith(_TITLES[victim])]

    def _start_driver(self) -> None:
        number = len(self.attempts) + 1
        standing = self._standing()
        places = (self.photos, "-o", self.output, "--ingest-key", self.key, "--inbox", self.inbox, "--dataset", DATASET)
        counted = [sys.executable, str(ROOT / "benchmarks/counted_run.py"), str(self._computed_path(number)), self.ms]
        log = self._log(f"run-{number}")
        process = subprocess.Popen(
            [*counted, *map(str, ("anonymize", *places, *self.options, "--progress-seconds", 5))],
            env={**self.environment, "RAY_ADDRESS": self.address},
            stdout=log,
            stderr=log,
        )
        self.attempts.append(Attempt(number, standing, process))

    def _standing(self) -> frozenset[str]:
        if not self.attempts:
            return frozenset()
        while True:
            try:
                return self.visible()
            except (JobError, OSError):
                time.sleep(POLL_SECONDS)

    def _start_ingest(self) -> None:
        log = self._log("ingest")
        self.ingest = subprocess.Popen(
            self.command("keystore", "ingest", self.keystore, "--inbox", self.inbox, "--accept", DATASET, "--follow"),
            env=self.environment,
            stdout=log,
            stderr=log,
        )

    def end_ingest(self) -> None:
        """End it, as a service manager does: what a shell starts in the background overhears an interrupt."""
        self.ingest.terminate()
        self.ingest.wait()

    def _log_path(self, name: str) -> Path:
        return self.scratch / f"{name}.log"

    def _log(self, name: str) -> IO[bytes]:
        return self._log_path(name).open("ab")

    def _computed_path(self, number: int) -> Path:
        return self.scratch / "computed" / f"attempt-{number}"


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("{")]
    return lines[-1] if lines else ""


def _descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Processes below one, each with its command line."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = [int(one) for one in children.read_text().split()]
        except OSError:
            continue
        for child in found:
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield child, title
            yield from _descendants(child)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
