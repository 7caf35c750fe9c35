"""What the keystore's tests share: a clock that moves by hand, records, and a keystore with a run taken in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from keystore.approver_key import ApproverKey
from keystore.audit.log import LogWriter
from keystore.crypto.canonical import timestamp
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.views import RequestView
from keystore.embedded import Keystore
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import seal_record
from keystore.intake.shards import write_shard
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.storage import schema
from tests.keystore.postgres import SERVER, Postgres, copy_keystore, database_name, running

RUN = "run-1"


class HandClock:
    """A clock that stands still until it is moved. It begins with the real one, which processes of their own go by."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **duration: float) -> None:
        self.now += timedelta(**duration)


def make_record(image_id: str = "a.png", **changes: Any) -> KeyRecord:
    """A key record whose image key is a digest of its image id."""
    values: dict[str, Any] = {
        "run_id": RUN,
        "dataset": "photos",
        "image_id": image_id,
        "source_sha256": hashlib.sha256(image_id.encode()).hexdigest(),
        "image_key": hashlib.sha256(b"key of " + image_id.encode()).digest(),
        "faces": [
            FaceRecord(
                index=0,
                attempt=0,
                box=(1.5, 2.25, 90.0, 120.125),
                affine=(0.1, 0.2, 3.3, -0.2, 0.1, 4.4),
                scale=1.8000000000000003,
                mask=b"\x00\xff\x10",
                mask_shape=(8, 8),
            )
        ],
        "method": "exact",
        "transform": "rotation",
        "steps": 12,
        "fidelity": "latent",
        "prior_digest": "0" * 64,
        "environment": {"torch": "2"},
        "created_at": datetime(2026, 11, 22, tzinfo=UTC),
    }
    return KeyRecord(**values | changes)


def deposit(keystore: Keystore, records: list[KeyRecord], shard: str = "part-0", run_id: str = RUN) -> Path:
    """Seal records into a shard in the inbox."""
    return write_shard(keystore.inbox(run_id), shard, [seal_record(one, keystore.ingest_public_key) for one in records])


def make_request(keystore: Keystore, *images: str, requester: str = "Alice", **changes: Any) -> RequestView:
    """A request that the default policy accepts."""
    values = {
        "case": "C-17",
        "purpose": "identify a missing person",
        "legal_basis": "court-order: 12/26",
        "expires": timedelta(hours=2),
    }
    return keystore.request(requester, list(images) or ["a.png"], **values | changes)


def approve(keystore: Keystore, request_id: str, approver: str) -> RequestView:
    """Approve what `show` shows at this moment."""
    return keystore.approve(request_id, approver, keystore.show(request_id).digest)


def make_approved(keystore: Keystore, *images: str) -> str:
    """A request by Alice, approved by Bob and Carol; its id."""
    request_id = make_request(keystore, *images).request_id
    approve(keystore, request_id, "Bob")
    approve(keystore, request_id, "Carol")
    return request_id


def make_approved_by(keystore: Keystore, image: str, *approvers: str) -> str:
    """A request by Alice for one image, approved by these people; its id."""
    request_id = make_request(keystore, image).request_id
    for one in approvers:
        approve(keystore, request_id, one)
    return request_id


def sign(keystore: Keystore, request_id: str, **keys: ApproverKey) -> RequestView:
    """Approve what `show` shows at this moment, by these people with their own keys."""
    for name, key in keys.items():
        shown = keystore.show(request_id)
        keystore.approve(request_id, name, shown.digest, key.sign(shown, keystore.audit_vkey, keystore._clock()))
    return keystore.show(request_id)


def agree(keystore: Keystore, change: str | None, **keys: ApproverKey) -> None:
    """Have the change of a request (of `set_policy`, `enrol_approver`, `remove_approver`) signed, and so made."""
    assert change is not None, "the change was made by names"
    assert sign(keystore, change, **keys).state is State.APPLIED


def enrol_three(keystore: Keystore, *others: str) -> dict[str, ApproverKey]:
    """Bob's, Carol's and Dora's keys, enrolled: two by the names of others, the third signed for by the first two."""
    keys = {name: ApproverKey.generate() for name in ("bob", "carol", "dora")}
    for name in ("bob", "carol"):
        assert keystore.enrol_approver(name, "dpo", keys[name].public_line, *others) is None
    third = keystore.enrol_approver("dora", "legal", keys["dora"].public_line, *others)
    agree(keystore, third, bob=keys["bob"], carol=keys["carol"])
    return keys


def take(keystore: Keystore, request_id: str, by: str = "Alice") -> list[KeyRecord]:
    """Release and open."""
    recipient = Recipient.generate()
    sealed = keystore.release(request_id, recipient.public_key, by)
    return recipient.open(sealed, Expected.of(keystore.show(request_id), keystore.audit_vkey))


def write_older_policy(
    connection: Connection, log: LogWriter, policy: Policy, by: list[str] | None, **more: str
) -> None:
    """Set a policy as older versions did: it ends no request, and these are held against it by its digest alone."""
    version = connection.execute(select(func.count()).select_from(schema.policies)).scalar_one() + 1
    row = {"version": version, "document": policy.document(), "digest": policy.digest(), "set_at": timestamp(log.now)}
    connection.execute(schema.policies.insert().values(**row))
    log.append("policy", by=by, digest=policy.digest(), policy=policy.content(), version=version, **more)


class Helpers:
    """The functions above, for tests to ask for as one fixture (test directories are no packages)."""

    RUN = RUN
    record = staticmethod(make_record)
    deposit = staticmethod(deposit)
    request = staticmethod(make_request)
    approve = staticmethod(approve)
    approved = staticmethod(make_approved)
    approved_by = staticmethod(make_approved_by)
    sign = staticmethod(sign)
    agree = staticmethod(agree)
    enrol_three = staticmethod(enrol_three)
    take = staticmethod(take)
    write_older_policy = staticmethod(write_older_policy)


@pytest.fixture(scope="session")
def make() -> type[Helpers]:
    return Helpers


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def _make_template(path: Path, database: str | None) -> Path:
    with Keystore.create(path, database=database, clock=HandClock()) as keystore:
        deposit(keystore, [make_record(name) for name in ("a.png", "b.png", "c.png")])
        assert keystore.ingest(RUN).ingested == 3
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore that holds the records of a.png, b.png and c.png, to be copied: making one takes longer than most tests."""
    return _make_template(tmp_path_factory.mktemp("template") / "ks", None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; one for all tests."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Path:
    """The same as `template`, in PostgreSQL."""
    return _make_template(tmp_path_factory.mktemp("template") / "ks", postgres.uri(postgres.new()))


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """Which database the keystores of a test have: SQLite, but where the test is ON_BOTH."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def filled_template(database: str, request: pytest.FixtureRequest) -> Path:
    """The template in the test's database."""
    return Path(request.getfixturevalue("template" if database == "sqlite" else "postgres_template"))


@pytest.fixture
def keystore(filled_template: Path, tmp_path: Path, clock: HandClock) -> Iterator[ServedKeystore]:
    """A keystore of this test's own that holds the records of a.png, b.png and c.png."""
    path = copy_keystore(filled_template, tmp_path / "ks")
    name = database_name(path)
    with ServedKeystore.open(path, clock=clock) as keystore:
        yield keystore
    if name is not None:
        SERVER[0].drop(name)
