"""The commands of the README, each in a process of its own: anonymize, ask, approve, recover, and an audit that notices edits."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.exit_codes import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # ten processes; each waits where the machine is busy

STEPS = 4  # DDIM steps by default
FACE = "people/astronaut.png"
SIDE = 256  # px
COMMAND_SECONDS = 240


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def keyanon(*arguments: object) -> Ended:
    """Run `keyanon` in its own process, as a user does."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.commands.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        env=environment,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_from_photographs_to_one_approved_recovery(tmp_path: Path, astronaut: Path) -> None:
    photos, output, keystore, restored = (tmp_path / name for name in ("photos", "out", "keystore", "restored"))
    (photos / "people").mkdir(parents=True)
    with Image.open(astronaut) as picture:
        picture.convert("RGB").resize((SIDE, SIDE)).save(photos / FACE, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff")

    run = keyanon("anonymize", photos, "--output", output, "--keystore", keystore, "--json")
    assert run.code == ExitCode.OK, run.err
    assert run.json["statuses"] == {"anonymized": 1, "quarantined": 1}
    assert "kek.key" in run.err  # the warning where the new KEK lies

    words = (
        "--case",
        "C-17",
        "--purpose",
        "identify the person",
        "--legal-basis",
        "court-order: StPO 98a",
        "--expires",
        "2h",
    )
    asked = keyanon("request", keystore, "--image", FACE, *words, "--as", "ines", "--json")
    assert asked.code == ExitCode.OK, asked.err
    request = asked.json["request_id"]
    recover = ("recover", keystore, request, "--input", output, "--output", restored, "--as", "ines", "--json")
    digest = keyanon("show", keystore, request, "--json").json["digest"]
    assert keyanon("approve", keystore, request, "--digest", digest, "--as", "ines").code == ExitCode.REFUSED
    assert keyanon("approve", keystore, request, "--digest", digest, "--as", "dora").code == ExitCode.OK
    assert keyanon("approve", keystore, request, "--digest", digest, "--as", "carl").code == ExitCode.OK

    recovered = keyanon(*recover)
    assert recovered.code == ExitCode.OK, recovered.err
    (entry,) = recovered.json["pictures"]
    assert (entry["status"], entry["commitment_verified"], entry["exact"]) == ("recovered", True, False)
    assert len(entry["solver"]) == STEPS  # every step was inverted, with its numbers
    assert all(step["per_face_iterations"] and max(step["per_face_residual"]) < 1e-4 for step in entry["solver"])
    _check_pictures(photos / FACE, output / "images" / FACE, restored / entry["output"])
    assert keyanon(*recover).code == ExitCode.REFUSED

    assert keyanon("audit", "verify", keystore).code == ExitCode.OK
    _forge_purpose(keystore / "keystore.db")
    assert keyanon("audit", "verify", keystore).code == ExitCode.WRONG_KEY_OR_TAMPERED


def _check_pictures(source: Path, anonymized: Path, restored: Path) -> None:
    """The published picture differs inside the face only; the restored one is much nearer to the source."""
    original, published, back = (
        np.asarray(Image.open(path), dtype=np.float64) for path in (source, anonymized, restored)
    )
    changed = np.abs(published - original).max(axis=2) > 0
    assert 0 < changed.mean() < 0.5
    assert np.array_equal(back[~changed], original[~changed])
    error_published = np.mean((published[changed] - original[changed]) ** 2)
    error_restored = np.mean((back[changed] - original[changed]) ** 2)
    assert 10 * np.log10(255**2 / error_restored) > 10 * np.log10(255**2 / error_published) + 10
    assert not Image.open(anonymized).getexif()


def _forge_purpose(database: Path) -> None:
    """What someone with the file and SQL can do: rewrite history, triggers notwithstanding."""
    shutil.copy(database, database.with_suffix(".bak"))
    connection = sqlite3.connect(database)
    with connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{trigger}"')
        assert connection.execute("UPDATE requests SET purpose = 'something harmless'").rowcount == 1
    connection.close()
