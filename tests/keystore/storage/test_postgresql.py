"""A keystore in PostgreSQL: how it is named, who may do what in it, and what happens on its bad days. A real server."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from keystore.auditor import Auditor
from keystore.decisions.api_token import Role
from keystore.decisions.bindings import Identity
from keystore.embedded import Keystore
from keystore.errors import AuditError, GrantError, PassingError, StorageError, may_pass
from keystore.ingest_opening import IngestOpening
from keystore.intake.report import ShardsNotTakenIn
from keystore.opening import NeverCompletedError
from keystore.recipient import Recipient
from keystore.served import ServedKeystore
from keystore.storage import postgresql, schema
from keystore.storage.places import URI_NAME
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH, Postgres, database_name

ROLES = Path(__file__).parents[3] / "infra/postgresql/roles.sql"
GROUPS = ("service", "ingest", "auditor")
IN_POSTGRES = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def name_of(keystore: Keystore) -> str:
    name = database_name(keystore.path)
    assert name is not None
    return name


# Naming it


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://owner:canary@127.0.0.1/ks",
        "postgresql://127.0.0.1/ks?password=canary",
        "postgresql://127.0.0.1/ks?sslpassword=canary",
        "postgresql://owner:canary@127.0.0.1:port/ks",
        "postgresql://127.0.0.1/ks?canary=1",
        "mysql://owner:canary@127.0.0.1/ks",
        "canary",
        "",
    ],
)
def test_a_uri_with_a_password_or_without_sense_is_refused_and_not_repeated(tmp_path: Path, uri: str) -> None:
    with pytest.raises(StorageError) as refused:
        Keystore.create(tmp_path / "ks", database=uri)
    assert "canary" not in str(refused.value)
    assert not (tmp_path / "ks" / URI_NAME).exists()
    assert not (tmp_path / "ks" / "kek.key").exists()


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ({"host": "db.example"}, {}, {"sslmode": "verify-full"}),
        ({"host": "127.0.0.1,db.example"}, {}, {"sslmode": "verify-full"}),
        ({}, {"PGHOST": "db.example"}, {"sslmode": "verify-full"}),
        ({"host": "127.0.0.1"}, {}, {}),
        ({"host": "/run/postgresql"}, {}, {}),
        ({}, {}, {}),
        ({"host": "db.example"}, {"PGSSLMODE": "verify-ca"}, {}),
    ],
)
def test_a_server_over_a_network_shows_a_certificate(
    settings: dict[str, str], environment: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert postgresql._sslmode(settings) == expected


def test_a_server_without_a_certificate_is_refused_where_one_is_asked_for(postgres: Postgres, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can not be reached") as refused:
        Keystore.create(tmp_path / "ks", database=postgres.uri("postgres") + "?sslmode=verify-full")
    assert not may_pass(refused.value)


@IN_POSTGRES
def test_the_directory_remembers_the_database_and_the_database_has_one_keystore(
    keystore, tmp_path: Path, postgres: Postgres
) -> None:
    uri = postgres.uri(name_of(keystore))
    assert not (keystore.path / "keystore.db").exists()
    with pytest.raises(StorageError, match="there is a keystore in"):
        Keystore.create(tmp_path / "another", database=uri)
    assert not (tmp_path / "another" / URI_NAME).exists()
    with pytest.raises(StorageError, match="another database already"):
        Keystore.create(keystore.path, database=postgres.uri("other"))
    with pytest.raises(StorageError, match="there is a keystore in"):
        Keystore.create(keystore.path)
    (keystore.path / "keystore.db").touch()
    with pytest.raises(StorageError, match=r"keystore\.db and a database\.uri"):
        Keystore.open(keystore.path)


def test_a_creation_that_was_cut_short_is_completed(postgres: Postgres, tmp_path: Path) -> None:
    name = postgres.new()
    (tmp_path / "ks").mkdir()
    (tmp_path / "ks" / URI_NAME).write_text(postgres.uri(name) + "\n")
    with pytest.raises(NeverCompletedError):
        Keystore.open(tmp_path / "ks")
    with Keystore.open_or_create(tmp_path / "ks") as keystore:
        assert verify_audit(keystore.path).ok
    postgres.drop(name)


def test_a_database_that_changes_texts_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StorageError, match="LATIN1"):
        Keystore.create(tmp_path / "ks", database=postgres.uri("latin"))
    postgres.drop("latin")


@IN_POSTGRES
def test_the_migrations_build_the_tables_of_the_schema(keystore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with keystore._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


# Bad days


@pytest.mark.slow
@ON_BOTH
def test_64_that_use_one_grant_at_once_get_it_once(keystore, make) -> None:
    request_id = make.approved(keystore)
    openings = [Keystore.open(keystore.path, clock=keystore._clock) for _ in range(8)]
    start, outcomes = threading.Barrier(64), list[str]()

    def use(opened: Keystore) -> None:
        start.wait(60)
        try:
            opened.release(request_id, Recipient.generate().public_key, "Alice")
            outcomes.append("released")
        except GrantError as error:
            outcomes.append(error.code)
        except StorageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=use, args=(openings[number % 8],)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for opened in openings:
        opened.close()
    assert sorted(outcomes) == ["released"] + ["used"] * 63
    leaves = [json.loads(leaf) for leaf in keystore.audit_entries()]
    assert sum(leaf["type"] == "release" for leaf in leaves) == 1
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


@IN_POSTGRES
def test_who_writes_waits_for_the_lock_and_says_so_when_it_is_not_let_go(
    keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "BUSY_TIMEOUT_MILLISECONDS", 200)
    entries = len(keystore.audit_entries())
    with (
        Keystore.open(keystore.path, clock=keystore._clock) as impatient,
        keystore._database.write(),
        pytest.raises(PassingError, match="another process has held it"),
    ):
        make.request(impatient)
    assert len(keystore.audit_entries()) == entries


@IN_POSTGRES
def test_an_error_of_the_server_quotes_no_row(keystore, make) -> None:
    purpose = "canary purpose of a request"
    request_id = make.request(keystore, purpose=purpose).request_id
    insert = "INSERT INTO requests SELECT * FROM requests WHERE request_id = :id"
    with pytest.raises(StorageError) as failed, keystore._database.write() as connection:
        connection.execute(text(insert), {"id": request_id})
    assert "canary" not in str(failed.value) and request_id not in str(failed.value)
    assert failed.value.__suppress_context__, "the driver's own error, which quotes the row, is in no traceback"
    with pytest.raises(StorageError, match="character that it does not take"):
        keystore.find_records(dataset="a\0b")


@IN_POSTGRES
def test_a_server_that_is_away_is_said_to_be_and_one_that_is_back_serves(keystore, make, postgres: Postgres) -> None:
    request_id = make.approved(keystore)
    postgres.stop("fast")
    try:
        with pytest.raises(PassingError, match=r"server|reached|connection"):
            keystore.show(request_id)
    finally:
        postgres.start()
    assert len(make.take(keystore, request_id)) == 1


@IN_POSTGRES
def test_a_backup_that_is_put_back_is_refused_and_what_was_erased_before_it_stays_erased(
    keystore, make, postgres: Postgres, tmp_path: Path, clock
) -> None:
    shard = make.deposit(keystore, [make.record("s1.png", subject="p. smith")], "part-5")
    kept = shard.read_bytes()
    keystore.ingest(make.RUN)
    keystore.erase("photos", "Olga", subject="p. smith")
    request_id = make.approved(keystore)
    dump = tmp_path / "backup.dump"
    postgres.run("pg_dump", "--format=custom", f"--file={dump}", postgres.uri(name_of(keystore)))
    shutil.copytree(keystore.path, tmp_path / "as-it-was")
    make.take(keystore, request_id)
    keystore.close()

    restored = postgres.new()
    postgres.run("pg_restore", "--exit-on-error", f"--dbname={postgres.uri(restored)}", dump)
    for path in (keystore.path, tmp_path / "as-it-was"):
        (path / URI_NAME).write_text(postgres.uri(restored) + "\n")
    with pytest.raises(AuditError, match="rolled back"):
        Keystore.open(keystore.path, clock=clock)
    assert any("rolled back" in one for one in verify_audit(keystore.path).problems)
    with Keystore.open(tmp_path / "as-it-was", clock=clock) as again:  # the witness of that day goes with the backup
        shard.write_bytes(kept)
        (again.path / "inbox" / make.RUN / shard.name).write_bytes(kept)
        assert len(again.ingest(make.RUN).erased) == 1
        assert {one.image_id for one in again.find_records()} == {"a.png", "b.png", "c.png"}
        report = verify_audit(again.path)
        assert report.ok, report.problems
    postgres.drop(restored)


# Roles


class Team:
    """A keystore in PostgreSQL with an account for each role, and the directory as each of them has it."""

    def __init__(self, keystore: Keystore, postgres: Postgres, work: Path) -> None:
        self.postgres, self.work = postgres, work
        self.name = name_of(keystore)
        for _ in range(2):
            postgres.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", ROLES, postgres.uri(self.name))
        with postgres.connect(self.name) as connection:
            for group in GROUPS:
                exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [f"ks_{group}"]).fetchone()
                if exists is None:
                    connection.execute(f"CREATE ROLE ks_{group} LOGIN PASSWORD 'of-{group}' IN ROLE keyanon_{group}")
                    postgres.add_password(f"ks_{group}", f"of-{group}")
            connection.execute("INSERT INTO ingest_accounts VALUES ('ks_ingest', 'photos')")
        self.path = keystore.path

    def directory(self, group: str) -> Path:
        """The keystore's directory, for this account: its own database user."""
        place = self.path / URI_NAME
        place.write_text(self.postgres.uri(self.name, f"ks_{group}") + "\n")
        return self.path

    def refuses(self, group: str, statement: str) -> bool:
        """Whether an account may not do something, or does it to no row."""
        with self.postgres.connect(self.name, f"ks_{group}") as connection:
            try:
                return connection.execute(statement).rowcount == 0
            except psycopg.Error as error:
                assert error.sqlstate in ("42501", "P0001"), error  # not allowed; a trigger
                return True


@pytest.fixture
def team(keystore, postgres: Postgres, tmp_path: Path) -> Team:
    return Team(keystore, postgres, tmp_path)


@IN_POSTGRES
def test_each_role_can_do_its_work(keystore, team: Team, make, clock) -> None:
    records = [make.record(name, subject="p. smith") for name in ("s1.png", "s2.png")] + [make.record("n.png")]
    make.deposit(keystore, records, "part-5")
    keystore.close()
    with IngestOpening.open(team.directory("ingest"), clock=clock) as ingest:
        ingest.inbox("run-2", "photos")
        ingest.inbox("run-3")
        report = ingest.ingest(make.RUN)
        assert (report.ingested, report.rejected) == (3, [])
    with ServedKeystore.open(team.directory("service"), clock=clock) as service:
        assert len(make.take(service, make.approved(service, "s1.png"))) == 1
        assert service.erase("photos", "Olga", subject="p. smith") == 2
        service.deny(make.request(service, "a.png").request_id, "Bob")
        service.change(make.request(service, "b.png").request_id, "Alice", purpose="another purpose, as long as that")
        service.set_policy(service.policy(), "Bob", "Carol")
        service.renew_ingest_key("Olga")
        service.retire_ingest_keys("Olga")
        service.rotate_kek(f"file:{team.path}/kek-2.key", "Olga")
        service.erase_person("Carol", "Olga")
        token = service.issue_token("dave", Role.APPROVER, timedelta(days=1), "Olga")
        assert service.authenticate(token) is not None
        service.revoke_token(service.tokens()[0].token_id, "Olga")
        identity = Identity("https://login.example", "248289761001")
        bound = service.bind_identity(identity, "dave", Role.APPROVER, "Olga")
        token = service.issue_to(service.bindings_of(identity)[0], timedelta(hours=8))
        service.unbind_identity(bound, "Olga")
        assert service.authenticate(token) is None
    with Keystore.open(team.directory("service"), clock=clock) as service:
        make.deposit(service, [make.record("k.png"), make.record("s3.png", subject="p. smith")], "part-6")
    with IngestOpening.open(team.directory("ingest"), clock=clock) as ingest:
        report = ingest.ingest(make.RUN)
        assert (report.ingested, len(report.erased)) == (1, 1), "ingest recognises what was erased"
    report = verify_audit(team.directory("auditor"))
    assert report.ok, report.problems
    auditor = Auditor(team.directory("auditor"))
    assert len(auditor.entries()) == report.size
    assert auditor.prove_inclusion(3)


FORBIDDEN = {
    "service": [
        *(f"UPDATE {table} SET {column} = {column}" for table, column in (
            ("log", "leaf"), ("checkpoints", "note"), ("releases", "recipient"), ("erased", "kind"), ("erasures", "owner"),
            ("approvals", "signature"), ("grants", "digest"), ("policies", "document"), ("identity", "audit_vkey"),
            ("kek_versions", "uri"), ("records", "envelope"), ("request_images", "record_id"), ("tokens", "role"),
            ("tokens", "binding"), ("bindings", "identity"), ("bindings", "person"),
        )),
        *(f"DELETE FROM {table}" for table in (
            "log", "checkpoints", "releases", "erased", "erasures", "approvals", "grants", "policies", "requests", "people",
            "tokens", "bindings", "epoch_keys", "runs", "shards", "secrets", "ingest_keys", "identity",
        )),
        "TRUNCATE log",
        "DROP TABLE log",
        "ALTER TABLE log DISABLE TRIGGER ALL",
        "DROP TRIGGER log_no_update ON log",
        "ALTER TABLE log DISABLE ROW LEVEL SECURITY",
        "INSERT INTO ingest_accounts VALUES ('ks_ingest', '*')",
        "CREATE TABLE mine (x int)",
        "SET ROLE keyanon_owner",
    ],
    "ingest": [
        "SELECT envelope FROM records",
        "SELECT wrapped FROM shred_keys",
        "SELECT name FROM people",
        "SELECT purpose FROM requests",
        "SELECT * FROM tokens",
        "SELECT * FROM bindings",
        "SELECT * FROM replies",
        "SELECT * FROM approvals",
        "SELECT wrapped FROM secrets WHERE name = 'audit-signing'",
        "SELECT wrapped FROM epoch_keys WHERE purpose IN ('audit', 'people')",
        "UPDATE log SET leaf = leaf",
        "DELETE FROM log",
        "DELETE FROM records",
        "UPDATE records SET envelope = ''",
        "DELETE FROM shred_keys",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET note = note",
        "DELETE FROM erased",
        "DELETE FROM erasures",
        "INSERT INTO erasures VALUES ('photos', 'o', 1, 't')",
        "INSERT INTO erased VALUES ('d', 'record', 0, 0, 't')",
        "INSERT INTO releases VALUES ('g', 'r', 't')",
        "INSERT INTO policies VALUES (9, '', '', '')",
        "UPDATE runs SET dataset = 'others' WHERE dataset IS NOT NULL",
        "INSERT INTO runs VALUES ('mine', 'others', '', '')",
        "INSERT INTO shred_keys (shred_key_id, dataset, owner, wrapped, created_at) VALUES ('k', 'others', 'o', '', 't')",
        "INSERT INTO epoch_keys VALUES ('e', 'audit', 'active', 'x', 1, 't', NULL, NULL)",
        "UPDATE epoch_keys SET state = 'destroyed' WHERE purpose = 'index'",
        "UPDATE epoch_keys SET state = 'deactivated', deactivated_at = 't' WHERE purpose = 'index'",
        "INSERT INTO ingest_accounts VALUES ('ks_ingest', '*')",
        "SET ROLE keyanon_service",
    ],
    "auditor": [
        "INSERT INTO log VALUES (99, '')",
        "UPDATE log SET leaf = leaf",
        "DELETE FROM log",
        "DELETE FROM milestone",
        "UPDATE requests SET state = 'approved'",
        "DELETE FROM records",
        "SELECT sealed FROM replies",
        "SET ROLE keyanon_service",
    ],
}  # fmt: skip


@IN_POSTGRES
@pytest.mark.parametrize("group", GROUPS)
def test_no_role_can_do_what_is_not_its_work(keystore, team: Team, make, group: str) -> None:
    make.take(keystore, make.approved(keystore))
    keystore.erase("photos", "Olga", image_id="c.png")
    assert [one for one in FORBIDDEN[group] if not team.refuses(group, one)] == []
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


@IN_POSTGRES
def test_the_log_is_append_only_for_the_owner_too_who_does_not_mean_it(keystore, postgres: Postgres) -> None:
    with postgres.connect(name_of(keystore)) as connection:
        for statement in ("UPDATE log SET leaf = leaf", "DELETE FROM log", "DELETE FROM checkpoints"):
            with pytest.raises(psycopg.Error, match="append-only"):
                connection.execute(statement)


@IN_POSTGRES
def test_an_ingest_sees_and_adds_records_of_its_data_sets_only(
    keystore, team: Team, make, clock, postgres: Postgres
) -> None:
    make.deposit(keystore, [make.record("x.png", dataset="others", run_id="run-2")], "part-5", "run-2")
    keystore.close()
    with postgres.connect(team.name, "ks_ingest") as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (3,)
    with IngestOpening.open(team.directory("ingest"), clock=clock) as ingest:
        with pytest.raises(StorageError, match="role may not"):
            ingest.ingest("run-2")
        with pytest.raises(StorageError, match="role may not"):
            ingest.inbox("run-9", "others")
        assert ingest.pending() == {"run-2": ["part-5"]}, "nothing is lost: who may takes it in"
    with postgres.connect(team.name) as connection:
        connection.execute("UPDATE ingest_accounts SET dataset = '*'")
    with IngestOpening.open(team.directory("ingest"), clock=clock) as ingest:
        assert ingest.ingest("run-2").ingested == 1
    with postgres.connect(team.name) as connection:
        connection.execute("DELETE FROM ingest_accounts")
    with postgres.connect(team.name, "ks_ingest") as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


@IN_POSTGRES
def test_a_record_id_that_a_data_set_out_of_sight_has_is_named_and_the_other_shards_are_taken_in(
    keystore, team: Team, make, clock, postgres: Postgres
) -> None:
    taken, image = make.record("secret-image.png", dataset="others", run_id="run-2"), "canary.png"
    make.deposit(keystore, [taken], "part-5", "run-2")
    keystore.ingest("run-2")
    make.deposit(keystore, [make.record(image, record_id=taken.record_id)], "part-6")
    make.deposit(keystore, [make.record("d.png")], "part-7")
    keystore.close()
    with IngestOpening.open(team.directory("ingest"), clock=clock) as ingest:
        with pytest.raises(ShardsNotTakenIn, match=r"part-6\.keys: .*a record has the id of one") as failed:
            ingest.ingest(make.RUN)
        assert failed.value.report.ingested == 1 and ingest.pending() == {make.RUN: ["part-6"]}
        assert not any(hidden in str(failed.value) for hidden in ("secret-image", "others", image))
        make.deposit(keystore, [make.record("e.png")], "part-8")
        assert ingest.ingest(make.RUN, ["part-8"]).ingested == 1  # it goes on after it
    assert verify_audit(team.directory("auditor")).problems == []


@IN_POSTGRES
def test_who_may_not_migrate_says_who_may(keystore, team: Team, clock, postgres: Postgres) -> None:
    keystore.close()
    with postgres.connect(team.name) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0006'")
    with pytest.raises(StorageError, match="as the owner"):
        Keystore.open(team.directory("service"), clock=clock)
