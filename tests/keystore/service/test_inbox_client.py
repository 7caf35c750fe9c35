"""The inbox of a served keystore, as a run sees it: put, receipted, taken back; refused, asked too often, away for a while."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from keystore.decisions.api_token import Role
from keystore.errors import ApprovalError, InvalidRecordError, RequestNotFound, StorageError
from keystore.ingest_opening import IngestOpening
from keystore.intake.receipts import MAX_RECEIPT_BYTES, parse_receipt
from keystore.intake.sealing import seal_record
from keystore.intake.shards import shard_bytes
from keystore.served import ServedKeystore
from keystore.service import inbox_client
from keystore.service.connection import Connection, ServiceUnavailable, TooManyCalls
from keystore.service.endpoints import ENDPOINTS, MAX_SHARD_BODY_BYTES
from keystore.service.inbox_client import ServiceInbox
from keystore.service.messages import MAX_NAMED_SUBJECTS
from keystore.service.pseudonyms import ServicePseudonyms
from keystore.service.token_file import TokenFile
from keystore.verification.verify import verify_audit
from tests.keystore.serving import COMMAND, Served

pytestmark = pytest.mark.usefixtures("trusted")
_runs = itertools.count()
PUT, REMOVED = "part-0.keys", "part-1.keys"

# The real command, which ends itself twice in one put: when its run is announced, and when the shard lies there.
DIES = """
import os, signal, sys
from keystore.intake.folder import FolderInbox
from keystore.served import ServedKeystore
def dying(owner, name):
    real = getattr(owner, name)
    def inner(*given, **named):
        real(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, inner)
dying(ServedKeystore, "announce_run")
dying(FolderInbox, "put")
from jobs.commands.cli import main
sys.exit(main(["keystore", "serve", *sys.argv[1:]]))
"""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A service that is away is given up on at once, where a test does not say otherwise."""
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(inbox_client, "LONGEST_WAIT_SECONDS", 0.5)
    yield
    inbox_client._connections.clear()


@pytest.fixture
def inbox(served: Served, tmp_path: Path) -> ServiceInbox:
    return ServiceInbox(served.url, served.token_file(tmp_path / "token", "ingest", "job", "photos"))


@pytest.fixture
def run_id() -> str:
    return f"run-by-http-{next(_runs)}"


def shard(beside: ServedKeystore, make, run_id: str, *images: str, dataset: str = "photos") -> bytes:
    records = [make.record(image, run_id=run_id, dataset=dataset) for image in images or ("d.png",)]
    return shard_bytes([seal_record(one, beside.ingest_public_key) for one in records])


def test_a_shard_is_put_once_receipted_and_its_receipt_taken_away(inbox, run_id, served, beside, make) -> None:
    data, other = shard(beside, make, run_id), shard(beside, make, run_id, "e.png")
    assert inbox.names(run_id, ".keys") == [], "a run that put nothing"
    for _ in range(2):
        inbox.put(run_id, PUT, data)
    with pytest.raises(FileExistsError):
        inbox.put(run_id, PUT, other)
    inbox.put(run_id, REMOVED, other)
    assert (served.path / "inbox" / run_id / PUT).read_bytes() == data
    assert inbox.names(run_id, ".keys") == [PUT, REMOVED]
    assert inbox.names(run_id, ".keys", after=PUT) == [REMOVED]
    for _ in range(2):
        inbox.remove(run_id, [REMOVED])
    with pytest.raises(FileNotFoundError):
        inbox.get(run_id, "part-0.receipt", MAX_RECEIPT_BYTES)
    with IngestOpening.open(served.path, receipts=True) as taker:
        taker.ingest(run_id)
    assert (inbox.names(run_id, ".keys"), inbox.names(run_id, ".receipt")) == ([], ["part-0.receipt"])
    inbox.put(run_id, PUT, data)  # an answer that was lost before the shard was taken in
    with IngestOpening.open(served.path, receipts=True) as taker:
        assert taker.ingest(run_id).already_present == 1
    receipt = parse_receipt(inbox.get(run_id, "part-0.receipt", MAX_RECEIPT_BYTES), "part-0.receipt", beside.audit_vkey)
    assert (receipt.run_id, len(receipt.stored), receipt.rejected) == (run_id, 1, [])
    with pytest.raises(OSError, match="bytes"):
        inbox.get(run_id, "part-0.receipt", 10)
    inbox.remove(run_id, ["part-0.receipt"])
    assert inbox.names(run_id, ".receipt") == []


def test_many_receipts_come_and_go_by_few_calls_whose_answers_are_bounded(
    inbox, run_id, served, beside, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put(run_id, PUT, shard(beside, make, run_id))
    folder, size = served.path / "inbox" / run_id, 1024 * 1024
    contents = {f"part-{number:04d}.receipt": b"%d" % number for number in range(1100)}
    contents |= {f"large-{number:02d}.receipt": bytes(size) for number in range(20)}  # of which an answer holds eight
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    made: list[str] = []
    real = Connection.call
    monkeypatch.setattr(
        Connection, "call", lambda *given, **named: (made.append(" ".join(given[1:3])), real(*given, **named))[1]
    )
    assert dict(inbox.get_many(run_id, list(contents), MAX_RECEIPT_BYTES)) == contents
    assert made == [f"POST /v1/inbox/{run_id}/receipts"] * 5
    made.clear()
    with pytest.raises(FileNotFoundError):
        list(inbox.get_many(run_id, ["part-0001.receipt", "part-none.receipt", "part-0002.receipt"], MAX_RECEIPT_BYTES))
    with pytest.raises(FileNotFoundError):
        inbox.get("run-of-nobody", "part-0001.receipt", MAX_RECEIPT_BYTES)
    made.clear()
    inbox.remove(run_id, list(contents))
    assert len(made) == 3
    assert inbox.names(run_id, ".receipt") == []
    with pytest.raises(InvalidRecordError, match="shard name"):
        inbox.get(run_id, "../part-0001.receipt", MAX_RECEIPT_BYTES)


def test_what_is_another_data_sets_or_runs_or_too_large_is_refused_and_not_tried_again(
    inbox, run_id, served, beside, make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 3600.0)
    inbox.put(run_id, PUT, shard(beside, make, run_id))
    elsewhere = ServiceInbox(served.url, served.token_file(tmp_path / "other", "ingest", "job", "elsewhere"))
    with pytest.raises(RequestNotFound, match="data set"):  # the run is known, and of another data set
        elsewhere.put(run_id, REMOVED, shard(beside, make, run_id, dataset="elsewhere"))
    assert elsewhere.names(run_id, ".keys") == []
    elsewhere.remove(run_id, [PUT])
    assert inbox.names(run_id, ".keys") == [PUT], "it is not removed by the token of another data set"
    for data in (shard(beside, make, run_id, dataset="elsewhere"), shard(beside, make, "run-another"), b"no shard"):
        with pytest.raises(InvalidRecordError):
            inbox.put(run_id, REMOVED, data)
    with pytest.raises(StorageError, match="--pictures-per-task"):
        inbox.put(run_id, REMOVED, bytes(MAX_SHARD_BODY_BYTES + 1))
    beside.revoke_token(served.token("ingest", "job", "elsewhere").split("_")[1], "oscar")
    with pytest.raises(ApprovalError, match="revoked"):
        elsewhere.names(run_id, ".keys")


def test_a_keystore_that_can_not_write_is_asked_again_and_then_an_error(
    inbox, run_id, served, beside, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = shard(beside, make, run_id), served.path / "inbox" / run_id
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where a folder should be")
    with pytest.raises(ServiceUnavailable, match="its operator has the reason"):
        inbox.put(run_id, PUT, data)
    assert any(line["event"] == "unavailable" and str(folder) in line["detail"] for line in served.lines())
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 60.0)
    threading.Timer(0.3, folder.unlink).start()
    inbox.put(run_id, PUT, data)
    assert (folder / PUT).read_bytes() == data


def test_who_asks_too_often_waits(inbox, run_id, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooManyCalls) as refused:
        for _ in range(3 * ENDPOINTS["inbox"].per_minute):
            inbox.names(run_id, ".keys")
    assert refused.value.wait >= 1
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 60.0)
    begun = time.monotonic()
    assert inbox.names(run_id, ".keys") == []
    assert time.monotonic() - begun >= 1


def test_an_ingest_token_calls_the_inbox_and_nothing_else() -> None:
    """With the table that is walked in test_endpoints."""
    may = {name for name, one in ENDPOINTS.items() if Role.INGEST in one.roles}
    assert may == {"put_shard", "remove_shard", "receipts", "remove_receipts", "inbox", "me"}
    more = {name for name, one in ENDPOINTS.items() if Role.PSEUDONYMS in one.roles} - may
    assert more == {"pseudonyms", "settle_pseudonym"}


def test_a_token_of_that_role_gets_pseudonyms_of_its_data_set_and_an_ingest_token_none(
    inbox, served, beside, tmp_path: Path
) -> None:
    def door(role: str, dataset: str) -> ServicePseudonyms:
        file = served.token_file(tmp_path / f"{role}-{dataset}", role, "job", dataset)
        return ServicePseudonyms(served.url, file, dataset)

    photos, other = door("pseudonyms", "photos"), door("pseudonyms", "other")
    subjects = [f"subject {number} of a service" for number in range(MAX_NAMED_SUBJECTS + 1)]
    found = photos.secrets(subjects)
    assert found == {
        subject: (one.secret, None) for subject, one in beside.pseudonyms.secrets("photos", subjects).items()
    }
    assert other.secrets(subjects[:1])[subjects[0]] != found[subjects[0]]
    assert (photos.settle(subjects[0], 7), photos.settle(subjects[0], 8)) == (7, 7)
    assert photos.secrets(subjects[:1]) == {subjects[0]: (found[subjects[0]][0], 7)}
    assert other.secrets(subjects[:1])[subjects[0]][1] is None
    with pytest.raises(InvalidRecordError, match="has no pseudonym"):
        other.settle("nobody", 1)
    with pytest.raises(RequestNotFound):
        door("ingest", "photos").secrets(subjects[:1])
    with pytest.raises(ServiceUnavailable, match="of another data set"):
        ServicePseudonyms(served.url, photos.token_file, "other").secrets(subjects[:1])
    secret = found[subjects[0]][0]
    for shown in (pickle.dumps(photos), repr(photos).encode(), str(served.lines()).encode()):
        assert secret not in shown and secret.hex().encode() not in shown and subjects[0].encode() not in shown
    assert verify_audit(served.path).ok


def test_what_travels_to_the_workers_holds_no_token(inbox, served) -> None:
    inbox.me()
    token = served.token("ingest", "job", "photos")
    for shown in (pickle.dumps(inbox), repr(inbox).encode(), str(inbox).encode(), repr(inbox._connection()).encode()):
        assert token.encode() not in shown and token.split("_")[2].encode() not in shown
    assert pickle.loads(pickle.dumps(inbox)) == inbox


@pytest.mark.parametrize("spoilt", ["kat1_x\x01y", "kat1_" + "0" * 16, "Bearer kat1_" + "0" * 16 + "_" + "0" * 64])
def test_a_token_file_with_something_else_in_it_is_refused_and_not_shown(spoilt, beside, tmp_path: Path) -> None:
    """A header that can not be sent is quoted in the error of the library that was to send it."""
    path = tmp_path / "token"
    path.write_text(f"keyanon-token-1\n{spoilt}\n{beside.audit_vkey}\n")
    path.chmod(0o600)
    with pytest.raises(StorageError, match="is no token file") as refused:
        TokenFile.read(path)
    assert spoilt not in str(refused.value)


@pytest.mark.parametrize(("mode", "owner", "uid", "fine"), [
    (0o600, 1000, 1000, True), (0o640, 1000, 1000, False), (0o440, 0, 1000, True), (0o640, 0, 1000, True),
    (0o660, 0, 1000, False), (0o444, 0, 1000, False), (0o640, 0, 0, False),
])  # fmt: skip
def test_a_token_file_is_its_owners_or_of_root_and_a_group(
    mode: int, owner: int, uid: int, fine: bool, beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(f"keyanon-token-1\nkat1_{'0' * 16}_{'0' * 64}\n{beside.audit_vkey}\n")
    path.chmod(mode)
    real = path.stat()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result((mode, *real[1:4], owner, *real[5:10])))
    if fine:
        assert TokenFile.read(path).audit_vkey == beside.audit_vkey
    else:
        with pytest.raises(StorageError, match="open to others"):
            TokenFile.read(path)


@pytest.mark.slow
def test_killed_while_a_shard_is_put_and_started_again_it_has_the_shard_once(
    served: Served, inbox, run_id, beside, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two deaths: the run is announced and nothing put; the shard is put and the answer never comes."""
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 300.0)
    data = shard(beside, make, run_id)
    served.stop(signal.SIGKILL)
    served.command = (sys.executable, "-c", DIES)
    try:
        with ThreadPoolExecutor(1) as pool:
            put = pool.submit(inbox.put, run_id, PUT, data)
            for known, there in ((True, False), (True, True)):
                served.start(served.port)
                assert served.process.wait(120) == -signal.SIGKILL
                assert beside.run_dataset(run_id)[0] == known
                assert (served.path / "inbox" / run_id / PUT).exists() == there
                assert not put.done()
            served.command = COMMAND
            served.start(served.port)
            put.result(120)
    finally:
        served.command = COMMAND
        if served.process.poll() is not None:
            served.start(served.port)
    assert [path.read_bytes() for path in (served.path / "inbox" / run_id).iterdir()] == [data]
    assert sum(run_id.encode() in leaf for leaf in beside.audit_entries()) == 1


def test_a_keystore_that_is_not_there_is_said_to_be(tmp_path: Path, beside) -> None:
    token = beside.issue_token("job", Role.INGEST, timedelta(days=1), "oscar", dataset="photos")
    TokenFile.claim(tmp_path / "token")
    TokenFile(token, beside.audit_vkey).write(tmp_path / "token")
    nobody = ServiceInbox("https://127.0.0.1:9", tmp_path / "token")
    with pytest.raises(ServiceUnavailable, match="can not be reached"):
        nobody.put("run", PUT, b"x")
    with pytest.raises(StorageError, match="no https"):
        ServiceInbox("http://keystore.example", tmp_path / "token")
