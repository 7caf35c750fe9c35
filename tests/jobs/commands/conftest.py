"""What the command-line tests share: `keyanon` in-process, and a keystore that holds the records of two images."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.commands.cli import main
from keystore.embedded import Keystore
from keystore.intake.sealing import seal_record
from keystore.intake.shards import write_shard
from tests.jobs.publishing import key_record

RUN = "run-1"
DATASET = "wedding"
IMAGE_KEY = bytes(range(32))


@dataclass(frozen=True)
class Ended:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON document it must be."""
        return json.loads(self.out)


Keyanon = Callable[..., Ended]


@pytest.fixture
def keyanon(capsys: pytest.CaptureFixture[str]) -> Keyanon:
    """Run `keyanon` with these arguments, through its real entry point."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(int(code), captured.out, captured.err)

    return run


def sealed_record(public_key: bytes, image_id: str, image_key: bytes = IMAGE_KEY, run_id: str = RUN) -> bytes:
    """One sealed record without faces."""
    return seal_record(key_record(run_id, image_id, dataset=DATASET, image_key=image_key), public_key)


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    """A keystore with the records of a.jpg and b.jpg."""
    path = tmp_path / "keystore"
    with Keystore.create(path) as made:
        inbox = made.inbox(RUN)
        write_shard(
            inbox, "000000000-shard", [sealed_record(made.ingest_public_key, name) for name in ("a.jpg", "b.jpg")]
        )
        made.ingest(RUN)
    return path
