"""A run that hands its keys in to a served keystore: published, receipted, complete; looked at before anything is computed."""

import contextlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.commands.cli import main
from jobs.errors import ConfigError, KeysWaitingError, MachineError, PublishError
from jobs.output.doors import DoorName
from jobs.output.keys import OutsideKeystore
from jobs.output.manifest import Manifest, read_existing
from jobs.output.reconcile import reconcile
from jobs.run.anonymize import run_anonymize
from jobs.run.plan import _check_keys
from jobs.run.resume import resume_run
from jobs.storage.opening import open_store
from keystore.decisions.api_token import Role
from keystore.door import IngestDoor
from keystore.embedded import Keystore
from keystore.ingest_opening import IngestOpening
from keystore.intake.folder import FolderInbox
from keystore.intake.ingest_key import IngestKey
from keystore.service import inbox_client
from tests.jobs.answering import QuietHandler, serving
from tests.jobs.conftest import MakeConfig
from tests.jobs.publishing import Place, block
from tests.jobs.run.stand_in import FIRST, Stopped, Workers
from tests.keystore.serving import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A keystore of its own, on this machine's own address."""
    path = tmp_path_factory.mktemp("served") / "ks"
    with Keystore.create(path) as made:
        (path.parent / "key").write_text(IngestKey(made.ingest_public_key, made.audit_vkey).text())
    server = Served(path, None)
    server.token_file(path.parent / "token", "ingest", "job", "d")
    yield server
    server.stop()


@pytest.fixture
def named(served: Served) -> DoorName:
    root = served.path.parent
    return DoorName(root / "key", served.url, None, root / "token", "d", patience=0.0)


@pytest.fixture
def by_http(tmp_path: Path, served: Served, named: DoorName) -> Iterator[Place]:
    with Keystore.open(served.path) as keystore:
        place = Place(tmp_path, keystore)
        place.keys = named.open()
        yield place


def test_a_run_is_complete_when_the_service_has_receipts_of_its_keys(
    by_http: Place, served: Served, tmp_path: Path
) -> None:
    inbox = served.path / "inbox" / by_http.run_id
    with by_http.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        sink = attempt.sink()
        assert served.token("ingest", "job", "d").encode() not in pickle.dumps(sink)
        sink.stage(block([by_http.result(0, "a.jpg")]))
        publisher.publish_complete()
        sink.stage(block([by_http.result(1, "b.jpg")]))  # and never published
        with pytest.raises(KeysWaitingError, match=f"keys of 1 rows wait in the inbox {served.url}"):
            attempt.complete(1)
    assert len(list(inbox.glob("*.keys"))) == 1, "what was not published is taken back"
    with IngestOpening.open(served.path, receipts=True) as taker:
        taker.ingest(by_http.run_id)
    with by_http.attempt() as attempt:
        attempt.publisher().open()
        assert attempt.complete(1).keyed.total() == 1
    assert list(inbox.iterdir()) == [], "the receipts too are taken away"
    by_http.check_visible()


def test_a_keystore_that_is_away_ends_the_attempt_with_nothing_published(
    by_http: Place, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 0.0)
    folder = served.path / "inbox" / by_http.run_id
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("no folder")
    with by_http.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        with pytest.raises(MachineError, match="run the same command again"):
            attempt.sink().stage(block([by_http.result(0, "a.jpg")]))
        publisher.publish_complete()
        assert by_http.visible() == set()
        folder.unlink()
    with by_http.attempt() as attempt, pytest.raises(KeysWaitingError):
        attempt.run([[by_http.result(0, "a.jpg")]], 1)
    assert len(by_http.rows()) == 1


def test_what_a_killed_attempt_left_with_the_service_is_an_orphan_and_removed(
    by_http: Place, served: Served, named: DoorName, make_config: MakeConfig
) -> None:
    with by_http.attempt() as attempt:
        attempt.publisher().open()
        attempt.sink().stage(block([by_http.result(0, "a.jpg")]))
    (shard,) = (served.path / "inbox" / by_http.run_id).iterdir()
    config = make_config(
        keystore=None,
        ingest_key=named.ingest_key,
        inbox=named.inbox,
        token_file=named.token_file,
        photos="x",
        dataset="d",
    )
    keystore_id = by_http.keys.key.keystore_id
    manifest = Manifest(by_http.run_id, keystore_id, "d", "", "", "folder", 1, config.to_json(), "")
    manifest.write(by_http.layout.store)
    for remove in (False, True):
        found = reconcile(by_http.layout.store, None, remove=remove)
        assert shard.name in [orphan.name for orphan in found.orphans if orphan.outside]
        assert shard.exists() == (not remove)


def test_what_does_not_fit_is_said_before_anything_is_computed(
    named: DoorName, served: Served, tmp_path: Path, shared_keystore: Keystore
) -> None:
    other = IngestKey(shared_keystore.ingest_public_key, shared_keystore.audit_vkey)
    (tmp_path / "key").write_text(other.text())
    stranger = served.token_file(tmp_path / "auditor", "auditor", "eve")
    for changes, message in (
        ({"ingest_key": tmp_path / "key"}, "of another keystore than the ingest key"),
        ({"dataset": "another"}, "data set 'd', and this run needs ingest for 'another'"),
        ({"role": Role.PSEUDONYMS}, "needs pseudonyms for 'd'; `keyanon keystore token issue --role pseudonyms"),
        ({"token_file": stranger}, "has the role auditor"),
        ({"token_file": None}, "give --token-file"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(named, **changes).open()
    with pytest.raises(MachineError, match="can not be reached"):
        replace(named, inbox="https://127.0.0.1:9").open()


def test_by_a_token_of_its_role_a_run_asks_for_pseudonyms_and_hands_in_and_by_another_inbox_for_none(
    named: DoorName, served: Served, tmp_path: Path
) -> None:
    token_file = served.token_file(tmp_path / "naming", "pseudonyms", "job", "d")
    opened = replace(named, role=Role.PSEUDONYMS, token_file=token_file).open()
    opened.look()
    door = pickle.loads(pickle.dumps(opened.pseudonyms("d")))
    ((secret, number),) = door.secrets(["ada"]).values()
    assert (len(secret), number, door.settle("ada", 3)) == (32, None, 3)
    assert opened.pseudonyms("d").secrets(["ada"]) == {"ada": (secret, 3)}
    folder = OutsideKeystore(IngestDoor(opened.key, FolderInbox(tmp_path)), 0)
    with pytest.raises(ConfigError, match="answers for no pseudonyms"):
        folder.pseudonyms("d")


def published(served: Served) -> str:
    """The address with its pin, as it is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["keystore", "ingest-key", str(served.path), "--url", served.url]) == 0
    return printed.getvalue().strip()


def test_a_run_goes_on_with_a_renewed_key_by_its_new_pin_and_with_no_other(
    served: Served,
    named: DoorName,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_keystore: Keystore,
) -> None:
    """As a run whose file holds another key of the same keystore, which is taken."""
    workers = Workers()
    monkeypatch.setattr("jobs.run.anonymize._compute", workers)
    (tmp_path / "photos").mkdir()
    for row in range(len(FIRST)):
        (tmp_path / "photos" / f"{row}.png").write_bytes(b"")
    first = published(served)
    config = make_config(keystore=None, ingest_key=first, inbox=served.url, token_file=named.token_file, dataset="d")
    workers.stops_after = 1
    with pytest.raises(Stopped):
        run_anonymize(config)
    store = open_store(config.output)
    ((_, planned),) = _check_keys(config, store)
    assert "whose token may put them there; the ingest key is the one of its pin" in planned
    with Keystore.open(served.path) as opened:
        opened.renew_ingest_key("oscar")
    with pytest.raises(ConfigError, match="has another ingest key than its pin says"):
        _check_keys(config, store)
    with pytest.raises(ConfigError, match="has another ingest key than its pin says"):
        resume_run(config.output)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "other").write_text(IngestKey(shared_keystore.ingest_public_key, shared_keystore.audit_vkey).text())
    another = {"ingest_key": str(tmp_path / "other"), "inbox": tmp_path / "inbox"}
    with pytest.raises(PublishError, match="whose keys are in keystore"):
        resume_run(config.output, another)
    with pytest.raises(PublishError, match="whose keys are in keystore"):
        _check_keys(config.model_copy(update={**another, "ingest_key": tmp_path / "other"}), store)
    renewed = published(served)
    with pytest.raises(Stopped):
        resume_run(config.output, {"ingest_key": renewed})
    keys = workers.attempts[-1].keys
    assert keys is not None and f"#sha256={keys.key.fingerprint}" in renewed != first
    workers.stops_after = len(FIRST)
    assert resume_run(config.output, {"ingest_key": str(named.ingest_key)}).resumed_rows == 2, "the file's older key"
    manifest = read_existing(store)
    assert manifest is not None and manifest.config["ingest_key"] == str(named.ingest_key)


@contextlib.contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """The address of a server that answers everything so."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            assert "Authorization" not in self.headers and "#" not in self.path
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked has had enough
                self.wfile.write(body)

    with serving(Handler) as url:
        yield url


def test_nobody_who_answers_for_an_address_chooses_the_key(
    named: DoorName, served: Served, shared_keystore: Keystore
) -> None:
    right = published(served)
    pin = right.partition("#")[2]
    other = IngestKey(shared_keystore.ingest_public_key, shared_keystore.audit_vkey).text().encode()
    elsewhere = f"{served.url}/v1/ingest-key"
    for status, body, headers, error, message in (
        (200, other, {}, ConfigError, "another ingest key than its pin"),
        (200, b"<html>Sign in</html>", {}, ConfigError, "is no ingest key"),
        (200, b"A" * 10**6, {}, ConfigError, "more than 16384 bytes"),
        (302, b"", {"Location": elsewhere}, ConfigError, "sends elsewhere"),
        (403, b"", {}, ConfigError, "answers 403"),
        (503, b"", {}, MachineError, "answers 503 .*run the same command again"),
    ):
        with answering(status, body, **headers) as url, pytest.raises(error, match=message):
            replace(named, ingest_key=f"{url}/key#{pin}").open()
    with pytest.raises(MachineError, match="can not be reached"):
        replace(named, ingest_key=f"{url}/key#{pin}").open()
    assert f"#sha256={replace(named, ingest_key=right).open().key.fingerprint}" in right
