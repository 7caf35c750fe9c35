"""A source between two attempts of a run: grown, changed, shrunk, listed in another order. A stand-in for the workers."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import ENCODED
from jobs.errors import PublishError, SourceError
from jobs.output.manifest import read_existing
from jobs.output.reader import read_rows
from jobs.output.status import status_of
from jobs.output.verify import verify_output
from jobs.run.anonymize import run_anonymize
from jobs.run.places import layout_of
from jobs.run.plan import _finished
from jobs.run.progress import RunState
from jobs.run.report import RunReport
from jobs.run.resume import resume_run
from jobs.run.retry import retry_quarantined
from jobs.sources.source import open_source, version_of
from jobs.storage.opening import open_store
from tests.jobs.conftest import MakeConfig
from tests.jobs.run.stand_in import Stopped, Workers

Run = Callable[..., RunReport]


@pytest.fixture
def run(tmp_path: Path, make_config: MakeConfig, workers: Workers) -> Run:
    """Anonymizes the photos, all of them quarantined."""
    (tmp_path / "photos").mkdir()

    def again(**changes: object) -> RunReport:
        workers.stops_after = 1000
        return run_anonymize(make_config(keys="discard", keystore=None, fidelity=None, steps=None, **changes))

    return again


def add(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def rows_of(output: Path) -> dict[str, int]:
    found = [row.image_id for row in read_rows(output)]
    numbers = [
        number
        for path in sorted((output / "rows").iterdir())
        for number in pq.read_table(path).column("row").to_pylist()
    ]
    assert len(set(found)) == len(found) and sorted(numbers) == list(range(len(found)))
    return dict(
        pair
        for path in (output / "rows").iterdir()
        for pair in zip(*(pq.read_table(path).column(name).to_pylist() for name in ("image_id", "row")), strict=True)
    )


def test_a_grown_source_is_an_incremental_run(run: Run, workers: Workers, tmp_path: Path) -> None:
    add(tmp_path / "photos", "b.png", "d.png")
    assert run().rows == 2
    before = rows_of(tmp_path / "out")
    add(tmp_path / "photos", "a.png", "c/e.png")  # before and between them in the listing
    report = run()
    assert (report.rows, report.resumed_rows, report.input_rows) == (4, 2, 4)
    after = rows_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before and after.keys() == {"a.png", "b.png", "c/e.png", "d.png"}
    assert sorted(workers.attempts[1].left_alone) == [1, 3]
    manifest = read_existing(open_store(tmp_path / "out"))
    assert manifest is not None
    assert (manifest.input_rows, manifest.state, manifest.attempts) == (4, "complete", 2)
    assert run().resumed_rows == 4 and len(workers.attempts) == 2, "workers are not started for nothing"


def test_a_source_may_grow_while_a_run_is_stopped(
    run: Run,
    workers: Workers,
    tmp_path: Path,
    make_config: MakeConfig,
) -> None:
    add(tmp_path / "photos", "b.png", "c.png", "d.png")
    workers.stops_after = 1
    with pytest.raises(Stopped):
        run_anonymize(make_config(keys="discard", keystore=None, fidelity=None, steps=None))
    add(tmp_path / "photos", "a.png")
    (tmp_path / "photos" / "c.png").unlink()  # nothing is known of it yet
    assert (run().resumed_rows, rows_of(tmp_path / "out").keys()) == (1, {"a.png", "b.png", "d.png"})


def test_pictures_taken_away_from_a_stopped_run_leave_an_output_that_agrees(
    run: Run, workers: Workers, tmp_path: Path, make_config: MakeConfig
) -> None:
    """The rows that stand keep numbers that are larger than what is left has rows."""
    add(tmp_path / "photos", "a.png", "b.png", "c.png", "d.png")
    workers.stops_after, workers.backwards = 2, True
    with pytest.raises(Stopped):
        run_anonymize(make_config(keys="discard", keystore=None, fidelity=None, steps=None))
    (tmp_path / "photos" / "a.png").unlink()
    assert run().rows == 3
    found = verify_output(open_store(tmp_path / "out"), None)
    assert (found.complete, found.rows, found.total, found.disagreements) == (True, 3, 3, [])
    shards = (pq.read_table(path) for path in (tmp_path / "out" / "rows").iterdir())
    assert sorted(number for table in shards for number in table.column("row").to_pylist()) == [0, 2, 3]


@pytest.mark.parametrize("touched", [True, False])
def test_a_changed_picture_is_named(run: Run, tmp_path: Path, touched: bool) -> None:
    add(tmp_path / "photos", "a.png", "b.png", "c.png")
    run()
    changed = tmp_path / "photos" / "b.png"
    times = changed.stat()
    changed.write_bytes(b"xy" if not touched else b"x")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns + touched))
    with pytest.raises(PublishError, match=r"1 pictures have changed .*\(b\.png\)"):
        run()
    changed.write_bytes(b"x")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run().resumed_rows == 3


def test_a_picture_that_is_gone_is_named(run: Run, tmp_path: Path) -> None:
    add(tmp_path / "photos", *(f"{number}.png" for number in range(9)))
    run()
    for number in range(7):
        (tmp_path / "photos" / f"{number}.png").unlink()
    with pytest.raises(
        PublishError, match=r"7 pictures of the run .* not in the input any more \(0\.png, .*, \.\.\.\)"
    ):
        run()


def test_parquet_grows_by_files_and_names_rows_that_changed(run: Run, tmp_path: Path) -> None:
    def write(name: str, ids: list[str | None]) -> None:
        table = pa.table({"image": pa.array([b"x"] * len(ids), pa.binary()), "id": pa.array(ids, pa.string())})
        pq.write_table(table, tmp_path / "photos" / name, row_group_size=2)

    write("b.parquet", ["p", "q", None, "q"])
    columns = {"id_column": "id"}
    assert run(**columns).rows == 4
    assert sorted(row.image_id for row in read_rows(tmp_path / "out")) == ["b.parquet#2", "p", "q", "q"]
    write("a.parquet", ["r", None])
    report = run(**columns)
    assert (report.rows, report.resumed_rows) == (6, 4)
    write("b.parquet", ["p", "q", None, "q", "s"])
    with pytest.raises(PublishError, match=r"4 pictures have changed"):
        run(**columns)


def test_a_picture_that_a_column_names_may_come_later_and_a_retry_does_its_row(
    run: Run, workers: Workers, tmp_path: Path
) -> None:
    add(tmp_path / "photos", "a.png")
    table = pa.table({"image": ["a.png", "later.png"]})
    pq.write_table(table, tmp_path / "photos" / "list.parquet")
    assert run(include=["*.parquet"]).rows == 2
    add(tmp_path / "photos", "later.png")
    pq.write_table(table.append_column("n", pa.array([1, 2])), tmp_path / "photos" / "list.parquet")
    report = run(include=["*.parquet"])
    assert (report.rows, report.resumed_rows) == (2, 2), "a row is its picture, whatever becomes of the list"
    retry_quarantined(tmp_path / "out")
    (unit,) = workers.attempts[-1].source.units((), lambda left: 2)
    assert [row[ENCODED] for table in unit.read() for row in table.to_pylist()] == [b"x"] * 2
    add(tmp_path / "photos", "a.png", content=b"changed")
    with pytest.raises(PublishError, match=r"1 pictures have changed .* \(list\.parquet#0\)"):
        run(include=["*.parquet"])


def test_an_output_of_an_earlier_version_goes_on_over_the_same_input_only(run: Run, tmp_path: Path) -> None:
    add(tmp_path / "photos", "a.png", "b.png")
    run()
    manifest = tmp_path / "out" / "_keyanon" / "manifest.json"
    said = json.loads(manifest.read_text())
    del said["given_digest"]
    manifest.write_text(json.dumps(said))
    for path in (tmp_path / "out" / "rows").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["source_version"]), path)
    assert run().resumed_rows == 2
    add(tmp_path / "photos", "c.png")
    with pytest.raises(PublishError, match="other input: files were added, taken or changed"):
        run()


def test_a_version_says_little_of_a_size() -> None:
    """An image's size depends on its face; for every size there is a time within a day that gives the same version."""
    told = version_of("a.png", 70_000, 1_700_000_000_000_000_000)
    assert 0 <= told < 1 << 16
    seconds = (1_700_000_000 + second for second in range(86_400 * 8))
    assert any(version_of("a.png", 70_001, second * 10**9) == told for second in seconds)


def test_pictures_that_are_gone_may_keep_their_rows_which_are_counted(
    run: Run, workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos, output = tmp_path / "photos", open_store(tmp_path / "out")
    add(photos, "a.png", "b.png", "c.png")
    run()
    before = rows_of(tmp_path / "out")
    (photos / "a.png").unlink()
    (photos / "c.png").unlink()
    add(photos, "d.png")
    with pytest.raises(PublishError, match="let their rows stay by --gone keep"):
        run()
    report = run(gone="keep")
    assert (report.rows, report.input_rows, report.gone_rows, report.resumed_rows) == (4, 2, 2, 1)
    assert report.anonymize_seconds and report.images_per_second * report.anonymize_seconds == pytest.approx(1)
    assert "2 rows of the output stay whose pictures are not in the input" in caplog.text
    after = rows_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before and "d.png" in after
    found = status_of(output)
    assert (found.activity, found.rows, found.total, found.gone) == ("complete", 4, 4, 2)
    verified = verify_output(output, None)
    assert (verified.complete, verified.rows, verified.total, verified.disagreements) == (True, 4, 4, [])

    assert resume_run(tmp_path / "out").gone_rows == 2, "the run recorded that they may be"
    retried = retry_quarantined(tmp_path / "out")
    assert (retried.rows, retried.gone_rows, status_of(output).total) == (4, 2, 4)
    assert sorted(workers.attempts[-1].left_alone) == []  # of the listing: b and d, which the stand-in quarantines

    add(photos, "a.png", content=b"another")
    with pytest.raises(PublishError, match=r"1 pictures have changed .*\(a\.png\)"):
        run(gone="keep")
    (photos / "a.png").unlink()
    with pytest.raises(PublishError, match="not in the input any more"):
        run()


def test_files_may_go_on_naming_pictures_that_are_gone_and_whose_rows_stay(run: Run, tmp_path: Path) -> None:
    boxes, mistyped = tmp_path / "boxes.csv", tmp_path / "keep.csv"
    boxes.write_text("file,x0,y0,x1,y1\na.png,0,0,9,9\nb.png,0,0,9,9\n")
    mistyped.write_text("file,x0,y0,x1,y1\nA.png,0,0,9,9\n")
    add(tmp_path / "photos", "a.png", "b.png")
    run(boxes=boxes)
    (tmp_path / "photos" / "a.png").unlink()
    with pytest.raises(SourceError, match=r"not in the input \('a\.png'\).* by --gone keep"):
        run(boxes=boxes)
    assert run(boxes=boxes, gone="keep").gone_rows == 1
    assert resume_run(tmp_path / "out").gone_rows == retry_quarantined(tmp_path / "out").gone_rows == 1
    with pytest.raises(SourceError, match=r"keep\.csv says something of 1 pictures .*\('A\.png'\)"):
        run(boxes=boxes, keep=mistyped, gone="keep")
    with pytest.raises(SourceError, match=r"boxes\.csv says something of 1 pictures .*\('a\.png'\)"):
        run(boxes=boxes, gone="keep", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_that_was_stopped_goes_on_without_a_picture_that_it_has_done(
    run: Run, workers: Workers, tmp_path: Path, make_config: MakeConfig
) -> None:
    add(tmp_path / "photos", "a.png", "b.png", "c.png")
    workers.stops_after = 1
    with pytest.raises(Stopped):
        run_anonymize(make_config(keys="discard", keystore=None, fidelity=None, steps=None))
    (tmp_path / "photos" / "a.png").unlink()
    report = run(gone="keep", limit=1)
    assert (report.rows, report.input_rows, report.gone_rows, report.resumed_rows) == (2, 2, 1, 0)
    assert status_of(open_store(tmp_path / "out")).activity == "stopped", "c.png is to be done yet"
    states: list[RunState] = []
    workers.stops_after = 1000
    report = resume_run(tmp_path / "out", {"gone": "keep"}, states.append)
    assert (report.rows, report.gone_rows, report.resumed_rows) == (3, 1, 1)
    assert [(state.phase, state.rows, state.total) for state in states[1:2]] == [("starting", 2, 3)]
    assert rows_of(tmp_path / "out").keys() == {"a.png", "b.png", "c.png"}


def test_a_plan_counts_what_is_left_of_the_input_as_a_run_would(
    run: Run, tmp_path: Path, make_config: MakeConfig
) -> None:
    add(tmp_path / "photos", "a.png", "b.png", "c.png")
    run()
    (tmp_path / "photos" / "a.png").unlink()
    (tmp_path / "photos" / "b.png").unlink()
    add(tmp_path / "photos", "d.png")

    def finished(**changes: object) -> int:
        config = make_config(keys="discard", keystore=None, fidelity=None, steps=None, **changes)
        source = open_source(config, config.given())
        return _finished(layout_of(config, source), config, source, [])

    assert finished(gone="keep") == 1, "before and after a run that keeps the rows of the others"
    run(gone="keep", limit=1)
    assert finished(gone="keep") == 1
    with pytest.raises(PublishError, match="not in the input any more"):
        finished()
