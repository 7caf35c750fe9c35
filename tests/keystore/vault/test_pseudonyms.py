"""Pseudonyms: made once for each subject of a data set, settled once, and gone with their subject alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from keystore.embedded import Keystore
from keystore.errors import InvalidRecordError, TamperedError
from keystore.naming_opening import NamingOpening
from keystore.storage import schema
from keystore.vault import epochs
from keystore.vault.pseudonym_limits import MAX_SUBJECTS
from keystore.verification.verify import verify_audit
from tests.keystore.conftest import HandClock
from tests.keystore.postgres import ON_BOTH

SUBJECT, OTHER = "Jane Doe", "John Roe"


@pytest.fixture
def naming(keystore: Keystore, clock: HandClock) -> Iterator[NamingOpening]:
    with contextlib.closing(NamingOpening.open(keystore.path, clock=clock)) as opened:
        yield opened


def is_sound(keystore: Keystore) -> bool:
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
    return True


@ON_BOTH
def test_each_subject_of_a_data_set_has_one_secret_from_then_on(keystore: Keystore, naming: NamingOpening) -> None:
    first = naming.pseudonyms.secrets("photos", [SUBJECT, OTHER])
    assert naming.pseudonyms.secrets("photos", [OTHER, SUBJECT]) == first
    other_set = naming.pseudonyms.secrets("other", [SUBJECT])
    secrets = [one.secret for one in (*first.values(), *other_set.values())]
    assert (len(set(secrets)), {len(one) for one in secrets}) == (3, {32})
    with contextlib.closing(NamingOpening.open(keystore.path)) as later:
        assert later.pseudonyms.secrets("photos", [SUBJECT])[SUBJECT] == first[SUBJECT]
    assert is_sound(keystore)
    with keystore._database.read() as connection:
        stored = repr(connection.execute(select(schema.pseudonyms)).all())
    assert SUBJECT not in stored
    assert all(repr(one)[2:-1] not in stored and repr(one) not in repr(first) for one in secrets)


@ON_BOTH
def test_a_carrier_is_settled_once_whoever_comes_at_the_same_time(keystore: Keystore, naming: NamingOpening) -> None:
    naming.pseudonyms.secrets("photos", [SUBJECT])
    with contextlib.ExitStack() as opened, ThreadPoolExecutor(8) as at_once:
        doors = [opened.enter_context(contextlib.closing(NamingOpening.open(keystore.path))) for _ in range(4)]
        held = set(
            at_once.map(lambda number: doors[number % 4].pseudonyms.settle("photos", SUBJECT, number), range(32))
        )
    assert len(held) == 1
    assert naming.pseudonyms.secrets("photos", [SUBJECT])[SUBJECT].number in held
    assert is_sound(keystore)


@ON_BOTH
def test_a_subjects_secret_is_erased_with_it_and_the_others_stay(keystore: Keystore, naming: NamingOpening) -> None:
    before = naming.pseudonyms.secrets("photos", [SUBJECT, OTHER])
    naming.pseudonyms.settle("photos", OTHER, 7)
    with keystore._database.read() as connection:
        epoch_id = connection.execute(select(schema.pseudonyms.c.epoch_id)).scalars().first()
    assert keystore.erase("photos", "Olga", subject=SUBJECT) == 0  # records
    with keystore._database.read() as connection:
        old = connection.execute(select(schema.epoch_keys).where(schema.epoch_keys.c.epoch_id == epoch_id)).one()
    assert (old.state, bytes(old.wrapped)) == ("destroyed", b"")
    with contextlib.closing(NamingOpening.open(keystore.path)) as later:
        after = later.pseudonyms.secrets("photos", [SUBJECT, OTHER])
    assert (after[OTHER].secret, after[OTHER].number) == (before[OTHER].secret, 7)
    assert after[SUBJECT].secret != before[SUBJECT].secret
    with pytest.raises(InvalidRecordError, match="has no pseudonym"):
        naming.pseudonyms.settle("photos", "nobody asked for", 1)
    assert is_sound(keystore)


def test_a_new_kek_and_a_full_epoch_lose_none(
    keystore: Keystore, naming: NamingOpening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "EPOCH_KEYS", 2)
    before = naming.pseudonyms.secrets("photos", [f"subject {number}" for number in range(5)])
    table = schema.pseudonyms
    with keystore._database.read() as connection:
        counts = connection.execute(select(func.count()).select_from(table).group_by(table.c.epoch_id)).scalars()
        assert sorted(counts) == [1, 2, 2]
    before |= naming.pseudonyms.secrets("photos", ["subject 5"])
    with keystore._database.read() as connection:
        counts = connection.execute(select(func.count()).select_from(table).group_by(table.c.epoch_id)).scalars()
        assert sorted(counts) == [2, 2, 2]  # an epoch is filled before another begins
    keystore.rotate_kek(f"file:{keystore.path}/new.key", "Olga")
    with contextlib.closing(NamingOpening.open(keystore.path, f"file:{keystore.path}/new.key")) as later:
        assert later.pseudonyms.secrets("photos", list(before)) == before
    assert is_sound(keystore)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"number": 3}, "carrier of a pseudonym"),
        ({"tag": b"x" * 32}, "carrier of a pseudonym"),
        ({"wrapped": b"x" * 80}, "does not open"),
    ],
)
def test_who_can_only_write_rows_settles_none_and_plants_no_secret(
    keystore: Keystore, naming: NamingOpening, change: dict[str, object], found: str
) -> None:
    naming.pseudonyms.secrets("photos", [SUBJECT])
    naming.pseudonyms.settle("photos", SUBJECT, 5)
    with keystore._database.write() as connection:
        connection.execute(update(schema.pseudonyms).values(**change))
    with pytest.raises(TamperedError, match=found):
        naming.pseudonyms.secrets("photos", [SUBJECT])


@ON_BOTH
@pytest.mark.parametrize("dataset", ["photos", "other"])
def test_a_row_that_is_moved_to_another_subject_or_data_set_hands_its_secret_to_nobody(
    keystore: Keystore, naming: NamingOpening, dataset: str
) -> None:
    table = schema.pseudonyms
    naming.pseudonyms.secrets("photos", [SUBJECT])
    with keystore._database.read() as connection:
        victim = connection.execute(select(table)).one()
    naming.pseudonyms.secrets(dataset, [OTHER])  # as whoever has a token of that data set may ask
    with keystore._database.write() as connection:
        own = connection.execute(select(table).where(table.c.pseudonym_id != victim.pseudonym_id)).one()
        connection.execute(table.delete().where(table.c.pseudonym_id == own.pseudonym_id))
        moved = update(table).where(table.c.pseudonym_id == victim.pseudonym_id)
        connection.execute(moved.values(dataset=own.dataset, owner=own.owner))
    with pytest.raises(TamperedError, match="does not open"):
        naming.pseudonyms.secrets(dataset, [OTHER])


@pytest.mark.parametrize("statement", ["dropped", "moved", "added"])
def test_the_verifier_misses_what_was_dropped_moved_or_added(
    keystore: Keystore, naming: NamingOpening, statement: str
) -> None:
    naming.pseudonyms.secrets("photos", [SUBJECT, OTHER])
    table = schema.pseudonyms
    with keystore._database.write() as connection:
        row = connection.execute(select(table)).first()
        assert row is not None
        one = table.c.pseudonym_id == row.pseudonym_id
        if statement == "dropped":
            connection.execute(table.delete().where(one))
        elif statement == "moved":
            connection.execute(update(table).where(one).values(owner="0" * 64))
        else:
            connection.execute(table.insert().values(**{**row._asdict(), "pseudonym_id": "0" * 32, "owner": "0" * 64}))
    problems = verify_audit(keystore.path).problems
    assert any("one was altered, dropped or added" in problem for problem in problems)


def test_a_call_is_bounded_and_a_number_is_a_carriers(naming: NamingOpening) -> None:
    assert naming.pseudonyms.secrets("photos", []) == {}
    with pytest.raises(InvalidRecordError, match="at most"):
        naming.pseudonyms.secrets("photos", [str(number) for number in range(MAX_SUBJECTS + 1)])
    for bad in ("", "x" * 1025):
        with pytest.raises(InvalidRecordError, match="1 to 1024"):
            naming.pseudonyms.secrets("photos", [bad])
    naming.pseudonyms.secrets("photos", [SUBJECT])
    for number in (-1, 32):
        with pytest.raises(InvalidRecordError, match="carrier's number"):
            naming.pseudonyms.settle("photos", SUBJECT, number)
