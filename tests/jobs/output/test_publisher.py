"""Making results visible: whatever dies, stalls or comes twice, what is visible has its key and the bytes its row lists."""

import errno
import os
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import FIDELITY, OUTPUT_SHA256, REASON, RECORD_ID, ROW, SEALED, SIDECAR, STATUS
from jobs.errors import CommitError, LeaseError, MachineError, PublishError
from jobs.output.commit import quarantined_rows, settle
from jobs.output.layout import MANIFEST_FILE, RUN_DIRECTORY, OutputLayout
from jobs.output.reader import OutputError, inspect_run, read_rows
from jobs.output.row_sets import RowSet
from jobs.output.staging import PICTURE_PART, SIDECAR_PART, Staging
from jobs.storage.json_files import write_json
from tests.jobs.publishing import Attempt, Place, before_operation, block, finished_rows, quarantined

MOST_OPERATIONS = 500  # of one attempt in these tests; more would mean that a loop does not end


def first_blocks(place: Place) -> list[list[dict[str, Any]]]:
    return [
        [place.result(0, "a/x.jpg", b"x of A"), quarantined(1, "a/bad.png")],
        [place.result(2, "y.jpg", b"y of A"), quarantined(3, "z.jpg", "gate: as before")],
    ]


def missing_blocks(place: Place, done: set[int]) -> list[list[dict[str, Any]]]:
    """What a second attempt makes of the rows: other bytes, under other keys, and not every file comes out again."""
    passed = {STATUS: "no_face", REASON: "no_face: none found", RECORD_ID: None, SEALED: None, SIDECAR: None}
    rows = [
        place.result(1, "a/bad.png", b"bad of B"),
        quarantined(0, "a/x.jpg", "gate: now"),
        {**place.result(2, "y.jpg", b"y of B"), **passed},
        quarantined(3, "z.jpg"),
    ]
    return [[row] for row in rows if row[ROW] not in done]


def same_files(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """What changes when a file is written again, or another put in its place."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_a_straggler_harms_nothing_wherever_it_stalled(place: Place, tmp_path: Path) -> None:
    """Attempt A's driver dies while its worker stands still before any of its steps; B does it all; the worker goes on."""
    for step in range(MOST_OPERATIONS):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a:
            a.publisher().open()
            sink = a.sink()

            def b_runs(a: Attempt = a, place: Place = place) -> None:
                a.__exit__()
                with place.attempt() as b:
                    b.run([[place.result(0, "x.jpg", b"picture of B")]], 1)

            with before_operation(step, b_runs) as reached:
                try:
                    sink.stage(block([place.result(0, "x.jpg", b"picture of A")]))
                except (LeaseError, PublishError):
                    assert reached()
        if not reached():
            assert step > 8
            return
        assert (place.out / "images/x.jpg.png").read_bytes() == b"picture of B"
        place.check_visible()
        with place.attempt() as c:  # the same command again: nothing to do but to sweep
            c.complete(1)
        assert place.check_complete(1)[0]["output"] == "images/x.jpg.png"
    raise AssertionError("the attempt did not end")


@pytest.mark.slow
def test_killed_between_any_two_steps_and_resumed_every_row_is_there_once(place: Place, tmp_path: Path) -> None:
    for step in range(MOST_OPERATIONS):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a, before_operation(step) as reached:
            a.run(first_blocks(place), 4)
        place.check_visible()
        before = same_files(place.out.glob("rows/*.parquet"))
        done = finished_rows(place.layout)
        with place.attempt() as b:
            b.run(missing_blocks(place, done), 4)
        rows = place.check_complete(4)
        assert same_files(before) == before, "what was finished is not made again"
        assert (rows[0]["status"] == "anonymized") == (0 in done)
        if not reached():
            assert step > 40
            return
    raise AssertionError("the attempt did not end")


@pytest.mark.slow
def test_a_retry_killed_between_any_two_steps_goes_on(place: Place, tmp_path: Path) -> None:
    for step in range(MOST_OPERATIONS):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a:
            a.run(first_blocks(place), 4)
        kept = [place.out / "images/a/x.jpg.png", place.out / "sidecars/y.jpg.keyanon"]
        before = same_files(kept)
        for number in count():
            todo = quarantined_rows(place.layout, before_retry=1)
            again = [row for row in retried(place, number) if row[ROW] in todo]
            with place.attempt(retry=1) as b, before_operation(step if number == 0 else MOST_OPERATIONS) as reached:
                b.run([[row] for row in again], 4, set(range(4)).difference(todo))
            place.check_visible()
            assert {row.image_id: row.status for row in read_rows(place.out)}.keys() == {
                "a/x.jpg",
                "a/bad.png",
                "y.jpg",
                "z.jpg",
            }
            assert len(list(read_rows(place.out))) == 4, "readers see no row twice, at any moment"
            if not reached():
                break
        rows = place.check_complete(4)
        assert [rows[row]["status"] for row in range(4)] == ["anonymized", "anonymized", "anonymized", "quarantined"]
        assert rows[3]["reason"].startswith("gate: again")
        assert same_files(kept) == before
        if number == 0:
            assert step > 40
            return
    raise AssertionError("the retry did not end")


def test_names_of_sources_are_published_beside_each_other_and_folders_of_theirs_stay(place: Place) -> None:
    """`a.jpg` and `a.png` are two pictures; `b.jpg`, quarantined, has the name of a folder, as an object store may hold it."""
    place.layout = OutputLayout(place.out, "same")
    with place.attempt() as a:
        first = [place.result(0, "a.jpg", b"one"), place.result(1, "a.png", b"two")]
        a.run([first, [quarantined(2, "b.jpg"), place.result(3, "b.jpg/c.jpg", b"three")]], 4)
    rows = place.check_complete(4)
    assert [rows[row]["output"] for row in (0, 1, 3)] == ["images/a.jpg", "images/a.png", "images/b.jpg/c.jpg"]
    assert [(place.out / f"images/a.{kind}").read_bytes() for kind in ("jpg", "png")] == [b"one", b"two"]
    assert (place.out / "images/b.jpg/c.jpg").read_bytes() == b"three"


def retried(place: Place, number: int) -> list[dict[str, Any]]:
    return [
        place.result(1, "a/bad.png", b"bad, now good %d" % number),
        quarantined(3, "z.jpg", f"gate: again {number}"),
    ]


@pytest.mark.slow
def test_a_retry_that_is_given_up_leaves_no_picture_without_a_key(place: Place, tmp_path: Path) -> None:
    """The retry dies while it publishes; then the run's own command is given, which does no row again."""
    for step in range(MOST_OPERATIONS):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a:
            a.run(first_blocks(place), 4)
        with place.attempt(retry=1) as b, before_operation(step) as reached:
            b.run([retried(place, 0)], 4, {0, 2})
        with place.attempt() as c:
            c.complete(4)
        place.check_complete(4)
        if not reached():
            assert step > 40
            return
    raise AssertionError("the retry did not end")


def test_keys_of_an_unfinished_retry_are_kept_by_the_next_one(place: Place) -> None:
    """Two rows of one shard: the first comes out in retry 1, whose keys lie in the inbox still when retry 2 does the other."""
    with place.attempt() as a:
        a.run([[quarantined(0, "x.jpg"), quarantined(1, "y.jpg")]], 2)
    with place.attempt(retry=1) as b:
        publisher = b.publisher(done=())
        publisher.open()
        b.sink().stage(block([place.result(0, "x.jpg"), quarantined(1, "y.jpg", "gate: x")]))
        publisher.publish_complete()  # and killed
    with place.attempt(retry=2) as c:
        c.run([[place.result(1, "y.jpg")]], 2, {0})
    rows = place.check_complete(2)
    assert {row["status"] for row in rows.values()} == {"anonymized"}


def test_of_a_block_that_is_staged_twice_one_is_published(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        names = [attempt.sink().stage(block([place.result(0, "x.jpg", content)])) for content in (b"first", b"second")]
        publisher.publish_complete()
        late = attempt.sink().stage(block([place.result(0, "x.jpg", b"third")]))
        publisher.publish_complete()
        (row,) = place.rows()
        assert row["shard"] in names and place.key_shards() == {*names, late}
        attempt.complete(1)
    place.check_complete(1)


@pytest.mark.parametrize("part", [PICTURE_PART, SIDECAR_PART])
@pytest.mark.parametrize("damage", [b"torn", None])
def test_a_staged_file_that_is_not_what_its_row_lists_is_not_published(
    place: Place, part: str, damage: bytes | None
) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        name = attempt.sink().stage(block([place.result(0, "x.jpg"), place.result(1, "y.jpg")]))
        staged = place.out / Staging.of(place.layout.store, attempt.lease.token.attempt).file(name, 1, part)
        staged.unlink()
        if damage is not None:
            staged.write_bytes(damage)
        with pytest.raises(
            MachineError, match=rf"y\.jpg: its {part}.* (missing|not what its row lists); nothing of the block"
        ):
            publisher.publish_complete()
        assert place.visible() == set()
        with pytest.raises(MachineError, match=r"2 input rows, 0 output rows, 2 missing"):
            attempt.complete(2)
    with place.attempt() as again:
        again.run([[place.result(0, "x.jpg"), place.result(1, "y.jpg")]], 2)
    place.check_complete(2)


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.struct([("path", pa.string()), ("bytes", pa.binary())])])
def test_a_picture_in_a_parquet_shard_is_compared_with_its_digest(place: Place, kind: pa.DataType) -> None:
    layout = OutputLayout(place.out, "png", pa.schema([("image", kind)]), "image")
    own = pa.table({ROW: [0]})
    with place.attempt() as attempt:
        publisher = attempt.publisher(layout=layout)
        publisher.open()
        attempt.sink(layout).stage(block([{**place.result(0, "x"), OUTPUT_SHA256: "f" * 64}], own))
        with pytest.raises(MachineError, match="not what its row lists"):
            publisher.publish_complete()
        assert place.visible() == set()
    with place.attempt() as attempt:
        publisher = attempt.publisher(layout=layout)
        publisher.open()
        name = attempt.sink(layout).stage(block([place.result(0, "x")], own))
        publisher.publish_complete()
    assert place.visible() == {f"rows/{name}.parquet"}


def test_a_picture_that_another_row_lists_is_never_replaced(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "x.jpg", b"first")]))
        publisher.publish_complete()
        attempt.sink().stage(block([place.result(1, "x.jpg", b"second")]))
        with pytest.raises(PublishError, match="belongs to another row"):
            publisher.publish_complete()
    assert (place.out / "images/x.jpg.png").read_bytes() == b"first"
    place.check_visible()


def test_missing_rows_are_an_error(place: Place) -> None:
    with (
        place.attempt() as attempt,
        pytest.raises(MachineError, match=r"3 input rows, 1 output rows, 2 missing \(first: \[1, 2\]\)"),
    ):
        attempt.run([[place.result(0, "x.jpg")]], 3)


def test_a_row_in_two_shards_of_the_run_itself_is_an_error(place: Place) -> None:
    with place.attempt() as attempt:
        attempt.run([[quarantined(0, "x.jpg")]], 1)
    (shard,) = (place.out / "rows").iterdir()
    shutil.copy(shard, shard.with_name("000000000-0123456789abcdef-0123456789ab.parquet"))
    with pytest.raises(CommitError, match="2 output rows"):
        settle(place.layout, 1)


def test_a_published_picture_without_its_key_is_an_error(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        name = attempt.sink().stage(block([place.result(0, "x.jpg")]))
        publisher.publish_complete()
        (place.keystore.inbox(place.run_id) / f"{name}.keys").unlink()
        with pytest.raises(CommitError, match=r"1 published pictures have no key in keystore .* restore its inbox"):
            attempt.complete(1)


def test_a_finished_run_stays_complete_when_a_picture_of_it_is_erased(place: Place) -> None:
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "erased.jpg"), place.result(1, "y.jpg")]], 2)
    assert place.keystore.erase("d", "olga", image_id="erased.jpg") == 1
    with place.attempt() as attempt:
        attempt.publisher().open()
        attempt.complete(2)


def test_a_picture_that_is_erased_before_its_key_is_taken_in_is_no_missing_key(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "erased early.jpg")]))
        publisher.publish_complete()
        place.keystore.erase("d", "olga", image_id="erased early.jpg")
        attempt.complete(1)
    assert place.keystore.find_records(run_id=place.run_id) == []


def test_an_attempt_sweeps_what_dead_ones_staged_before_it_begins(place: Place) -> None:
    """They may be what fills the disk."""
    with place.attempt() as a:
        a.publisher().open()
        a.sink().stage(block([place.result(0, "x.jpg")]))
    with place.attempt() as b:
        b.publisher().open()
        folder = place.out / Staging.of(place.layout.store, b.lease.token.attempt).folder
        assert list(folder.parent.iterdir()) == [folder] and not list(folder.iterdir())


def test_a_file_of_the_users_in_the_output_stays(place: Place) -> None:
    (place.out / "images").mkdir(parents=True)
    (place.out / "images" / "notes.txt").write_text("mine")
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "x.jpg"), quarantined(1, "y.jpg")]], 2)
    assert (place.out / "images" / "notes.txt").read_text() == "mine"


def test_where_there_are_no_hard_links_the_error_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.out.mkdir()
    elsewhere = (Path(name) for name in ("/dev/shm", "/tmp", "/var/tmp", "."))
    other = next(path for path in elsewhere if path.stat().st_dev != place.out.stat().st_dev) / f"keyanon-{os.getpid()}"
    other.mkdir()
    (place.out / "images").symlink_to(other)
    try:
        with place.attempt() as attempt, pytest.raises(PublishError, match="does not allow the hard links"):
            attempt.run([[place.result(0, "x.jpg")]], 1)
        assert place.rows() == [] and not list(other.iterdir())
    finally:
        shutil.rmtree(other)

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)  # as FAT does
    with place.attempt() as attempt, pytest.raises(PublishError, match="does not allow the hard links"):
        attempt.publisher().open()


def test_what_is_staged_while_the_run_goes_on_is_published_and_a_failure_ends_the_run(place: Place) -> None:
    counted: list[tuple[dict[str, int], int]] = []
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher._report = lambda rows, faces: counted.append((dict(rows), faces))
        with publisher:
            attempt.sink().stage(block([place.result(0, "x.jpg"), quarantined(1, "y.jpg")]))
            while not place.rows():
                publisher._over.wait(0.01)
            attempt.sink().stage(block([place.result(2, "z.jpg")]))
        assert counted == [({"anonymized": 1, "quarantined": 1}, 1), ({"anonymized": 1}, 1)]
        with pytest.raises(MachineError, match="is missing"), attempt.publisher():
            name = attempt.sink().stage(block([place.result(3, "u.jpg")]))
            (
                place.out / Staging.of(place.layout.store, attempt.lease.token.attempt).file(name, 0, PICTURE_PART)
            ).unlink(missing_ok=True)
            with pytest.raises(LeaseError):
                while True:  # a worker of this attempt ends at one of its next blocks
                    attempt.sink().stage(block([quarantined(4, "v.jpg")]))
    assert {row["row"] for row in place.rows()} >= {0, 1, 2}
    place.check_visible()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is synced, linked and removed, in order, each a file or folder by its number; the real calls are made."""
    events: list[tuple[str, int]] = []
    sync, link, unlink = os.fsync, os.link, os.unlink

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        events.append(("sync", os.fstat(descriptor).st_ino))

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        events.append(("link", Path(target).stat().st_ino))

    def unlinked(path: Path, *, dir_fd: int | None = None) -> None:
        events.append(("unlink", os.stat(path, dir_fd=dir_fd).st_ino))
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "unlink", unlinked)
    return events


def number(path: Path) -> int:
    return path.stat().st_ino


def test_what_a_row_lists_is_on_the_disk_before_the_row_is_visible(place: Place, disk: list[tuple[str, int]]) -> None:
    """Daft finalised a checkpoint before its data: what died between the two had lost rows that counted as done."""
    """A power cut may take whatever was not synced: files, and names in folders."""
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        name = attempt.sink().stage(block([place.result(0, "a/x.jpg"), place.result(1, "b/y.jpg")]))
        publisher.publish_complete()
    shard = place.shard(name)
    visible = len(disk) - 1 - disk[::-1].index(("link", number(shard)))
    for row in place.rows():
        for part in ("output", "sidecar"):
            file = place.out / row[part]
            assert ("sync", number(file)) in disk[:visible]
            made = disk.index(("link", number(file)))
            assert ("sync", number(file.parent)) in disk[made:visible]
            assert ("unlink", number(file)) in disk[visible:], "what was staged is removed"
    assert disk[visible + 1] == ("sync", number(shard.parent)), "and not before the row is on the disk"


def test_a_shard_is_removed_when_the_one_that_replaces_it_is_on_the_disk(
    place: Place, disk: list[tuple[str, int]]
) -> None:
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "x.jpg"), quarantined(1, "y.jpg")]], 2)
    (old,) = (place.out / "rows").iterdir()
    removed, rows = number(old), number(old.parent)
    with place.attempt(retry=1) as attempt:
        attempt.run([[place.result(1, "y.jpg")]], 2, {0})
    (replacing,) = (place.shard(row["shard"]) for row in place.rows() if row["row"] == 0)
    visible = (
        len(disk) - 1 - disk[::-1].index(("link", number(replacing)))
    )  # the last: a number is that of a dead file before
    at = disk.index(("unlink", removed), visible)
    assert disk[at - 2 : at + 2] == [("link", number(replacing)), ("sync", rows), ("unlink", removed), ("sync", rows)]


def test_a_shard_that_can_not_be_read_is_named(place: Place) -> None:
    with place.attempt() as attempt:
        attempt.run([[quarantined(0, "x.jpg")]], 1)
    (shard,) = (place.out / "rows").iterdir()
    foreign = shard.with_name("mine.parquet")
    shutil.copy(shard, foreign)
    with pytest.raises(PublishError, match=r"mine\.parquet was not written by this run"):
        finished_rows(place.layout)
    foreign.unlink()
    pq.write_table(pq.read_table(shard).drop_columns(["status"]), shard)
    assert finished_rows(place.layout) == {0}
    with pytest.raises(PublishError, match=rf"{shard.name} lacks the column 'status'"):
        settle(place.layout, 1)
    with pytest.raises(OutputError, match="has no readable rows"):
        list(read_rows(place.out))
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(PublishError, match=rf"{shard.name} is damaged"):
        finished_rows(place.layout)


def test_a_retry_over_parquet_keeps_the_other_rows_of_a_shard_as_they_were(place: Place) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("tags", pa.list_(pa.string()))])
    place.layout = OutputLayout(place.out, "png", schema, "image")
    own = pa.table(
        {
            ROW: [0, 1, 2],
            "image": pa.array([{"bytes": None, "path": f"{at}.jpg"} for at in range(3)], kind),
            "tags": pa.array([["a", "b"], None, ["c"]], pa.list_(pa.string())),
        }
    )
    with place.attempt() as attempt:
        attempt.publisher().open()
        attempt.sink().stage(block([place.result(0, "x"), quarantined(1, "y"), place.result(2, "z", b"another")], own))
        attempt.publisher().publish_complete()
        attempt.complete(3)
    before = pq.read_table(place.out / "rows")
    with place.attempt(retry=1) as attempt:
        publisher = attempt.publisher(done={0, 2})
        publisher.open()
        attempt.sink().stage(block([place.result(1, "y", b"now")], own.slice(1, 1)))
        publisher.publish_complete()
        assert [row.position for row in read_rows(place.out)] == [0, 2, 0]
        attempt.complete(3)
    place.check_complete(3)
    after = pq.read_table(place.out / "rows").sort_by("row")
    assert after.schema == before.schema
    assert after.take([0, 2]).equals(before.take([0, 2]))
    assert after.column("image")[1].as_py() == {"bytes": b"now", "path": "1.jpg"}


def test_the_account_of_a_run_counts_what_stands(place: Place) -> None:
    with place.attempt() as attempt:
        tally = attempt.run(first_blocks(place), 4)
    assert (tally.rows, tally.faces, tally.fresh_faces) == (4, 2, 2)
    assert (dict(tally.statuses), dict(tally.reasons)) == (
        {"anonymized": 2, "quarantined": 2},
        {"corrupt": 1, "gate": 1},
    )
    assert tally.keyed.total() == sum(row["record_id"] is not None for row in place.rows())
    sizes = {
        part: sum(p.stat().st_size for p in (place.out / part).rglob("*.*")) for part in ("images", "sidecars", "rows")
    }
    assert tally.bytes_of == sizes
    assert settle(place.layout, 4, RowSet({0, 1})).fresh_faces == 1
    with place.attempt(retry=1) as attempt:
        tally = attempt.run([retried(place, 0)], 4, {0, 2})
    assert (tally.rows, dict(tally.reasons), tally.faces) == (4, {"gate": 1}, 3)
    assert quarantined_rows(place.layout) == quarantined_rows(place.layout, "gate") == {3}
    assert quarantined_rows(place.layout, "corrupt") == quarantined_rows(place.layout, before_retry=1) == set()


def test_a_driver_whose_lease_file_was_removed_publishes_nothing_beside_its_successor(place: Place) -> None:
    with place.attempt() as a:
        publisher = a.publisher()
        publisher.open()
        a.sink().stage(block([place.result(0, "x.jpg", b"of A")]))
        a.lease.token.path.unlink()  # by hand, and with it the lock
        with place.attempt() as b:
            with pytest.raises(LeaseError, match="another attempt"):
                publisher.publish_complete()
            b.run([[place.result(0, "x.jpg", b"of B")]], 1)
    place.check_complete(1)
    assert (place.out / "images/x.jpg.png").read_bytes() == b"of B"


def test_pictures_are_counted_by_how_they_come_back_and_rows_of_earlier_versions_are_not(place: Place) -> None:
    """Shards of earlier versions have no column of it."""
    with place.attempt() as attempt:
        alone = {**place.result(1, "b.png"), FIDELITY: "image"}
        rows = [place.result(0, "a.png"), alone, place.result(2, "c.png"), quarantined(3, "d.png")]
        tally = attempt.run([rows], 4)
    write_json(place.out / RUN_DIRECTORY / MANIFEST_FILE, {})
    assert tally.fidelities == inspect_run(place.out).fidelities == {"latent": 2, "image": 1}
    (shard,) = place.out.glob("rows/*.parquet")
    table = pq.read_table(shard)
    shard.unlink()
    pq.write_table(table.drop_columns(["fidelity"]), shard)
    assert [row.fidelity for row in read_rows(place.out)] == [None] * 4
    assert settle(place.layout, 4).fidelities == {} and inspect_run(place.out).rows == 4
    shard.unlink()
    pq.write_table(table.drop_columns(["permanent"]), shard)
    with pytest.raises(OutputError, match="lacks the column 'permanent'"):
        list(read_rows(place.out))
