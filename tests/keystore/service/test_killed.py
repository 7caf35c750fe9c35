"""kill -9 of the server at steps of a release: what was released is on record, and what was not can still be."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from keystore.decisions.api_token import Role
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.service.calls import REPLY_LIFETIME
from keystore.verification.verify import verify_audit
from tests.keystore.serving import Served

# The real command, which ends itself at the N-th statement, commit, sync or rename after a release was asked for.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from keystore.served import ServedKeystore
steps, counting = 0, False
def count(*_):
    global steps
    steps += counting
    if steps == int(os.environ["KEYANON_TEST_STEP"]) and counting:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(real):
    def inner(*given, **named):
        count()
        return real(*given, **named)
    return inner
for name in ("before_cursor_execute", "commit"):
    event.listen(Engine, name, count)
os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
real = ServedKeystore.release
def release(*given, **named):
    global counting
    counting = True
    try:
        return real(*given, **named)
    finally:
        counting = False
        print(json.dumps({"event": "steps", "steps": steps}), flush=True)
ServedKeystore.release = release
from jobs.commands.cli import main
sys.exit(main(["keystore", "serve", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_killed_in_a_release_nothing_is_released_unaudited_and_nothing_is_lost(
    template: Path, tls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make
) -> None:
    path = tmp_path / "ks"
    shutil.copytree(template, path)
    with ServedKeystore.open(path) as keystore:
        token = keystore.issue_token("alice", Role.RECOVERY, timedelta(days=1), "oscar")
        request_id = make.approved_by(keystore, "a.png", "bob", "carol")

    def killed_at(step: int) -> tuple[str, int]:
        """What became of the release, and how many steps it had so far."""
        copy = tmp_path / f"killed-{step}" / "ks"
        shutil.copytree(path, copy)
        monkeypatch.setenv("KEYANON_TEST_STEP", str(step))
        recipient, answer = Recipient.generate(), None
        served = Served(copy, tls, command=(sys.executable, "-c", KILLED))
        body = {"recipient": base64.b64encode(recipient.public_key).decode()}
        with contextlib.suppress(httpx2.HTTPError):
            answer = served.call("POST", f"/v1/requests/{request_id}/release", token, json=body)
        served.stop(signal.SIGKILL)
        with ServedKeystore.open(copy) as keystore:
            released = kinds(keystore).count("release")
            assert keystore.show(request_id).state == ("released" if released else "approved")
            assert answer is None or released == 1
            # Whoever asked holds the key still: it gets what was released, or releases it now.
            sealed = keystore.release(request_id, recipient.public_key, "alice", keep_reply=REPLY_LIFETIME)
            (record,) = recipient.open(sealed, Expected.of(keystore.show(request_id), keystore.audit_vkey))
            assert record.image_id == "a.png"
            assert answer is None or answer.content == sealed
            assert (kinds(keystore).count("release"), kinds(keystore).count("release-again")) == (1, released)
        report = verify_audit(copy)
        assert report.ok, (step, report.problems)
        steps = [line["steps"] for line in served.lines() if line["event"] == "steps"]
        return "answered" if answer is not None else "released" if released else "not released", sum(steps)

    outcome, steps = killed_at(-1)
    assert outcome == "answered" and steps > 20, "the steps are counted"
    seen = {killed_at(step)[0] for step in (1, steps // 2, *range(steps - 6, steps + 1))}
    assert seen == {"not released", "released"}, seen


def kinds(keystore: ServedKeystore) -> list[str]:
    return [json.loads(leaf)["type"] for leaf in keystore.audit_entries()]
