"""A witness elsewhere: a process of its own that signs only what extends what it saw, and what a keystore makes of that."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.cosignature import check_cosignature
from keystore.audit.elsewhere import asked_witnesses
from keystore.audit.merkle import consistency_proof, leaf_hash
from keystore.audit.witnessing import KEY_NAME, MAX_PROOF_HASHES, WitnessKey
from keystore.embedded import Keystore
from keystore.errors import AuditError, StorageError
from keystore.verification.verify import verify_audit
from tests.keystore.verification.tampering import rewrite

START_SECONDS = 60
HASH = base64.b64encode(bytes(32))  # a line of a proof


class Witness:
    """The real command, in a process of its own."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory, self.log, self.port = directory, log, 0
        self.start()

    def start(self) -> None:
        out = self.directory.parent / "witness.log"
        command = [sys.executable, "-m", "jobs.commands.cli", "keystore", "witness", str(self.directory)]
        with out.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--log", str(self.log), "--port", str(self.port)], stderr=stream, stdout=stream
            )
        until = time.monotonic() + START_SECONDS
        while not (ready := [one for one in out.read_text().splitlines() if '"listening"' in one]):
            assert self.process.poll() is None and time.monotonic() < until, out.read_text()
            time.sleep(0.05)
        self.port = json.loads(ready[0])["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.vkey = (self.directory / "witness.pub").read_text().strip()

    def stop(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(60)

    def add(self, old: int, proof: list[bytes], note: str) -> httpx2.Response:
        lines = "".join(f"{base64.b64encode(one).decode()}\n" for one in proof)
        return httpx2.post(f"{self.url}/add-checkpoint", content=f"old {old}\n{lines}\n{note}".encode(), timeout=60)

    def latest(self, origin: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}/checkpoint", params={"origin": origin}, timeout=60)


@pytest.fixture
def witness(keystore, tmp_path: Path) -> Iterator[Witness]:
    running = Witness(tmp_path / "elsewhere", keystore.path / "audit.pub")
    yield running
    running.stop()


def test_it_signs_what_extends_what_it_saw_and_nothing_else(keystore, make, witness: Witness, tmp_path: Path) -> None:
    notes = [keystore.checkpoint()]
    for _ in range(3):
        make.request(keystore)
        notes.append(keystore.checkpoint())
    hashes = [leaf_hash(leaf) for leaf in keystore.audit_entries()]
    trees = [open_checkpoint(note, keystore.audit_vkey) for note in notes]
    sizes = [tree.size for tree in trees]

    def proof(old: int, new: int) -> list[bytes]:
        return consistency_proof(hashes[:new], old)

    assert witness.latest(trees[0].origin).status_code == 404
    answer = witness.add(0, [], notes[0])
    assert answer.status_code == 200
    assert abs(check_cosignature(trees[0], answer.text, witness.vkey) - time.time()) < 600
    assert witness.add(sizes[0], proof(sizes[0], sizes[1]), notes[1]).status_code == 200

    stale = witness.add(sizes[0], proof(sizes[0], sizes[2]), notes[2])
    assert (stale.status_code, stale.text, stale.headers["content-type"]) == (409, f"{sizes[1]}\n", "text/x.tlog.size")
    assert witness.add(0, [], notes[0]).status_code == 409, "back to the begin"
    assert witness.add(sizes[1], [], notes[0]).status_code == 400, "an old size beyond the checkpoint"
    good = proof(sizes[1], sizes[3])
    for wrong in ([], good[:-1], [*good, bytes(32)], [bytes(32), *good[1:]]):
        assert witness.add(sizes[1], wrong, notes[3]).status_code == 422
    unsigned = notes[3].replace(f"\n{sizes[3]}\n", f"\n{sizes[3] + 1}\n")
    assert witness.add(sizes[1], good, unsigned).status_code == 403
    with Keystore.create(tmp_path / "other") as other:
        assert witness.add(0, [], other.checkpoint()).status_code == 404
    for body in (
        b"",
        b"old",
        b"old 1",
        b"old -1\n\nx",
        b"old 01\n\nx",
        b"\xff\n\n",
        b"old 1\n!!\n\nx",
        b"old 1\n" * 70 + b"\n",
        b"old 1\n" + (HASH + b"\n") * (MAX_PROOF_HASHES + 1) + b"\nx",
        b"old 1\n" + base64.b64encode(bytes(31)) + b"\n\nx",
    ):
        assert httpx2.post(f"{witness.url}/add-checkpoint", content=body, timeout=60).status_code == 400, body
    assert httpx2.post(f"{witness.url}/add-checkpoint", content=bytes(70_000), timeout=60).status_code == 413

    longest = b"old 1\n" + (HASH + b"\n") * MAX_PROOF_HASHES + b"\nx"
    assert httpx2.post(f"{witness.url}/add-checkpoint", content=longest, timeout=60).status_code == 404, "well-formed"

    witness.stop(signal.SIGKILL)
    witness.start()
    assert witness.add(sizes[0], [], notes[0]).status_code == 409, "what it signed is not forgotten"
    assert witness.add(sizes[1], good, notes[3]).status_code == 200
    assert witness.add(sizes[3], [], notes[3]).status_code == 200, "the same again"
    kept = witness.latest(trees[0].origin).text
    report = verify_audit(keystore.path, kept, keystore.audit_vkey)
    assert report.intact and report.vouched_size == sizes[3]
    assert (witness.directory / KEY_NAME).stat().st_mode & 0o077 == 0


def test_a_keystore_asks_after_each_checkpoint_and_believes_no_log_that_the_witness_did_not_see(
    keystore, make, witness: Witness, clock
) -> None:
    assert keystore.use_witness(witness.url, witness.vkey) == len(keystore.audit_entries())
    request_id = make.approved(keystore)
    make.take(keystore, request_id)

    def seen() -> int:
        origin = f"keyanon.keystore/{keystore.id}"
        return open_checkpoint(witness.latest(origin).text, keystore.audit_vkey).size

    assert seen() == len(keystore.audit_entries())
    kept = witness.latest(f"keyanon.keystore/{keystore.id}").text
    assert check_cosignature(open_checkpoint(kept, keystore.audit_vkey), kept.split("\n\n")[1], witness.vkey)
    command = [sys.executable, "-m", "jobs.commands.cli", "audit", "verify", str(keystore.path), "--json"]
    command += ["--witness", witness.url, "--witness-key", str(witness.directory / "witness.pub")]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["intact"] and told["vouched_size"] == told["size"]
    third = witness.directory.parent / "third"
    WitnessKey.open_or_create(third)
    command[-1] = str(third / "witness.pub")
    assert subprocess.run(command, check=False, capture_output=True).returncode == 5, "another key than the witness's"
    make.deposit(keystore, [make.record("d.png")], "part-9")
    keystore.ingest(make.RUN)
    make.request(keystore)
    assert seen() == len(keystore.audit_entries()), "and what ingest wrote in between"
    for kept_there in (keystore.path / "witness").glob("cosigned-*"):
        kept_there.unlink()
    assert keystore.use_witness(witness.url, witness.vkey) == seen(), "the witness says what it has"

    # Who has database, KEK and directory writes the log anew, without the release: only the witness elsewhere is in the way.
    leaves = [json.loads(leaf) for leaf in keystore.audit_entries()]
    signer = keystore._keys.signer
    rewrite(keystore.path, keystore, [leaf for leaf in leaves if leaf["type"] != "release"], signer)
    keystore.close()
    with pytest.raises(AuditError, match="saw"):
        Keystore.open(keystore.path, clock=clock)


def test_a_directory_that_is_rolled_back_as_a_whole_is_refused(
    keystore, make, witness: Witness, clock, tmp_path: Path
) -> None:
    keystore.use_witness(witness.url, witness.vkey)
    request_id = make.approved(keystore)
    keystore._database.fold()
    shutil.copytree(keystore.path, tmp_path / "before")
    make.take(keystore, request_id)
    keystore.close()
    assert verify_audit(tmp_path / "before").ok, "nothing in the directory shows it"
    with pytest.raises(AuditError, match="rolled back or written anew"):
        Keystore.open(tmp_path / "before", clock=clock)
    with Keystore.open(keystore.path, clock=clock) as again:
        assert again.show(request_id).state == "released"


def test_a_witness_that_is_away_stops_nothing_and_sees_the_next_checkpoint(
    keystore, make, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    keystore.use_witness(witness.url, witness.vkey)
    witness.stop()
    make.request(keystore)
    assert "was not reached" in caplog.text
    witness.start()
    make.request(keystore)
    answer = witness.latest(f"keyanon.keystore/{keystore.id}")
    assert open_checkpoint(answer.text, keystore.audit_vkey).size == len(keystore.audit_entries())


@pytest.mark.parametrize(
    "url",
    [
        "http://witness.example",
        "https://one\nhttps://two",
        "https://a:b@witness.example",
        "ftp://127.0.0.1",
        "witness",
        "http://127.0.0.1:1",
    ],
)
def test_a_witness_that_can_not_be_asked_safely_or_at_all_is_not_remembered(keystore, tmp_path: Path, url: str) -> None:
    vkey = WitnessKey.open_or_create(tmp_path / "elsewhere").vkey
    with pytest.raises(StorageError):
        keystore.use_witness(url, vkey)
    with pytest.raises(AuditError, match="malformed"):
        keystore.use_witness("http://127.0.0.1:1", keystore.audit_vkey)
    assert asked_witnesses(keystore.path / "witness") == []


def test_what_answers_and_is_no_witness_is_not_remembered(keystore, tmp_path: Path) -> None:
    vkey = WitnessKey.open_or_create(tmp_path / "elsewhere").vkey
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StorageError, match="does not answer as one"):
            keystore.use_witness(f"http://127.0.0.1:{server.server_port}", vkey)
        server.shutdown()
    assert asked_witnesses(keystore.path / "witness") == []


def test_another_that_answers_in_the_witnesss_name_is_not_believed(keystore, witness: Witness, tmp_path: Path) -> None:
    vkey = WitnessKey.open_or_create(tmp_path / "another").vkey
    with pytest.raises(AuditError, match="did not sign"):
        keystore.use_witness(witness.url, vkey)
    assert asked_witnesses(keystore.path / "witness") == []


def test_several_witnesses_are_asked_and_a_quorum_of_them_vouches(keystore, make, witness: Witness, clock) -> None:
    second = Witness(witness.directory.parent / "second", keystore.path / "audit.pub")
    try:
        for one in (witness, second, second):  # twice the same is once
            keystore.use_witness(one.url, one.vkey)
        assert [one.url for one in asked_witnesses(keystore.path / "witness")] == [witness.url, second.url]
        with pytest.raises(AuditError, match="counts once"):
            keystore.use_witness(f"http://localhost:{second.port}", second.vkey)
        make.request(keystore)
        vouched = len(keystore.audit_entries())
        with Keystore.open(keystore.path, clock=clock) as beside:
            beside.drop_witness(second.url)
            with pytest.raises(StorageError, match="is not asked"):
                beside.drop_witness(second.url)
        make.request(keystore)
        size = len(keystore.audit_entries())
        kept = [one.latest(f"keyanon.keystore/{keystore.id}").text for one in (witness, second)]
        for quorum, reached in ((None, vouched), (2, vouched), (1, size)):
            report = verify_audit(keystore.path, kept, keystore.audit_vkey, quorum)
            assert report.intact and report.vouched_size == reached, (quorum, report)
        assert not verify_audit(keystore.path, kept[:1], keystore.audit_vkey, 2).intact, "fewer than are wanted"

        second.stop()
        command = [sys.executable, "-m", "jobs.commands.cli", "audit", "verify", str(keystore.path), "--json"]
        for one in (witness, second):
            command += ["--witness", one.url, "--witness-key", str(one.directory / "witness.pub")]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 3, "one is out of reach"
        told = json.loads(subprocess.run([*command, "--quorum", "1"], check=True, capture_output=True).stdout)
        assert told["intact"] and told["vouched_size"] == size
        assert subprocess.run([*command, "--quorum", "3"], check=False, capture_output=True).returncode == 2
    finally:
        second.stop()
