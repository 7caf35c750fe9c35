"""A keystore is moved from SQLite to PostgreSQL as a whole, or it stays where it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest

from keystore.embedded import Keystore
from keystore.errors import AuditError, StorageError
from keystore.moving import move
from keystore.storage import places, schema
from keystore.storage.postgresql import PostgresDatabase
from keystore.verification.verify import verify_audit
from tests.keystore.killing import killed_again_and_again
from tests.keystore.postgres import Postgres, copy_keystore, remove_keystore

SUBJECT = "Jane Doe"


class Used(NamedTuple):
    path: Path
    approved: str


@pytest.fixture(scope="module")
def used(template: Path, tmp_path_factory: pytest.TempPathFactory, make) -> Used:
    """A keystore with a release, an erasure and a grant that was not used."""
    path = copy_keystore(template, tmp_path_factory.mktemp("used") / "ks")
    with Keystore.open(path) as keystore:
        make.deposit(keystore, [make.record("s.png", subject=SUBJECT)], "part-9")
        keystore.ingest(make.RUN)
        make.take(keystore, make.approved(keystore, "a.png"))
        keystore.erase("photos", "Dora", subject=SUBJECT)
        return Used(path, make.approved(keystore, "b.png"))


@pytest.fixture(scope="module")
def empty(postgres: Postgres) -> str:
    """A database with the keystore's tables and nothing in them, to be copied: making them takes longer than moving."""
    name = postgres.new()
    database = PostgresDatabase(postgres.uri(name))
    database.migrate()
    database.close()
    return name


def test_it_is_the_same_keystore_with_the_same_log_and_the_old_one_is_closed(
    used: Used, postgres: Postgres, tmp_path: Path, make
) -> None:
    path = copy_keystore(used.path, tmp_path / "ks")
    before = verify_audit(path)
    stale = Keystore.open(path)
    stale.find_records()
    assert move(path, postgres.uri(postgres.new())) > 20  # into one that has no tables yet
    after = verify_audit(path)
    assert after.problems == [] and (after.size, after.root) == (before.size, before.root)
    with pytest.raises(StorageError):  # who has the old one open
        make.request(stale, "c.png")
    stale.close()
    with Keystore.open(path) as keystore:
        assert len(make.take(keystore, used.approved)) == 1
        make.deposit(keystore, [make.record("s.png", subject=SUBJECT)], "part-10")
        assert len(keystore.ingest(make.RUN).erased) == 1  # what was erased stays so
    assert verify_audit(path).problems == []
    left = {one.name for one in path.glob("keystore.db*")}
    assert "keystore.db.moved" in left and all(name.startswith("keystore.db.moved") for name in left)
    with pytest.raises(StorageError, match="no keystore in SQLite"):
        move(path, postgres.uri(postgres.new()))
    with sqlite3.connect(path / "keystore.db.moved") as old, pytest.raises(sqlite3.IntegrityError, match="was moved"):
        old.execute("INSERT INTO log VALUES (999, x'00')")
    remove_keystore(path)


def test_killed_at_any_step_one_of_the_two_is_whole_and_in_force(
    used: Used, postgres: Postgres, empty: str, tmp_path: Path, make
) -> None:
    expected = verify_audit(used.path)
    in_force = set()

    def begin(path: Path) -> Path:
        return path

    target = postgres.new(empty)

    def operate(path: Path) -> None:
        move(path, postgres.uri(target))

    for path in killed_again_and_again(used.path, tmp_path, begin, operate, every=17):
        report = verify_audit(path)
        assert report.problems == [] and (report.size, report.root) == (expected.size, expected.root)
        in_force.add((path / places.URI_NAME).exists())
        with Keystore.open(path) as keystore:
            assert len(make.take(keystore, used.approved)) == 1
        if not (path / places.URI_NAME).exists():
            postgres.drop(target)
        target = postgres.new(empty)
    assert in_force == {False, True}


@pytest.mark.parametrize("cut", ["before the switch", "after the switch"])
def test_cut_short_around_the_switch_it_is_in_one_place(
    used: Used, postgres: Postgres, empty: str, tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    path, uri, switch = (
        copy_keystore(used.path, tmp_path / "ks"),
        postgres.uri(postgres.new(empty)),
        places.switch_database,
    )

    def cut_short(directory: Path, uri: str) -> None:
        if cut == "after the switch":
            switch(directory, uri)
        raise KeyboardInterrupt

    monkeypatch.setattr(places, "switch_database", cut_short)
    with pytest.raises(KeyboardInterrupt):
        move(path, uri)
    assert (places.database_uri(path) is None) == (cut == "before the switch")
    assert verify_audit(path).problems == []
    with Keystore.open(path) as keystore:
        assert make.take(keystore, used.approved)
    if cut == "before the switch":
        monkeypatch.undo()
        with pytest.raises(StorageError, match="not empty"):  # the copy that was left
            move(path, uri)
        move(path, postgres.uri(postgres.new(empty)))
        assert verify_audit(path).problems == []
    remove_keystore(path)


def test_a_database_in_use_and_a_keystore_that_was_tampered_with_are_refused(
    used: Used, postgres: Postgres, postgres_template: Path, empty: str, tmp_path: Path
) -> None:
    path = copy_keystore(used.path, tmp_path / "ks")
    with pytest.raises(StorageError, match="not empty"):
        move(path, str(places.database_uri(postgres_template)))
    with pytest.raises(StorageError, match="is named by"):
        move(path, "mysql://localhost/x")
    with pytest.raises(StorageError):
        move(tmp_path / "nothing", postgres.uri("x"))
    with sqlite3.connect(path / "keystore.db") as connection:
        connection.execute("UPDATE requests SET purpose = 'harmless'")
    connection.close()
    uri = postgres.uri(postgres.new(empty))
    with pytest.raises(AuditError, match="is not moved"):
        move(path, uri)
    database = PostgresDatabase(uri)
    with database.read() as target:
        assert target.execute(schema.log.select()).first() is None
    database.close()
    assert places.database_uri(path) is None
