"""Segments and their packs: what is visible is the same however many of them were packed, and whoever died while packing."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.errors import LeaseError, PublishError
from jobs.output import segments
from jobs.output.layout import PACKED_SEGMENTS, SEGMENTS
from jobs.output.segments import Segments
from jobs.storage.local import LocalStore
from jobs.storage.s3 import S3Store
from tests.jobs.seaweed import BUCKET, Seaweed

PACK = 3


class Killed(BaseException):
    """Nothing of the process goes on."""


@dataclass(frozen=True)
class Folder(LocalStore):
    """A folder that is used as a bucket is. dies_at: the number of the call of `create`, counted in halves, at which it ends."""

    dies_at: int = -1
    shared = True

    def create(self, name: str, content: bytes) -> str:
        self._step()
        version = super().create(name, content)
        self._step()
        return version

    def _step(self) -> None:
        if self.dies_at < 0:
            return  # nothing to count, and no file that a kill would leave half-written
        steps = self.root / "steps"
        done = int(steps.read_text()) if steps.exists() else 0
        steps.write_text(str(done + 1))
        if done == self.dies_at:
            raise Killed


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "PACK_SEGMENTS", PACK)


def made(root: Path, dies_at: int = -1) -> Folder:
    store = Folder(root, dies_at)
    store.make_folder(SEGMENTS)
    return store


def files(store: LocalStore, folder: str) -> list[str]:
    return sorted(path.stem for path in (store.root / folder).glob("*.json"))


def name(number: int) -> str:
    return f"{number:012d}"


def test_packed_segments_are_not_read_again(tmp_path: Path) -> None:
    store = made(tmp_path)
    written = Segments.read(store, "a")
    for number in range(2 * PACK + 1):
        written.append([f"shard-{number}"], [f"shard-{number - 1}"] if number % 2 else [])
    kept = {f"shard-{number}" for number in range(2 * PACK + 1) if number % 2 or number == 2 * PACK}
    assert (written.visible, files(store, PACKED_SEGMENTS)) == (kept, [name(0), name(PACK)])
    for number in range(2 * PACK):
        (tmp_path / SEGMENTS / f"{name(number)}.json").write_text("nobody reads this")
    read = Segments.read(store, "b")
    assert (read.visible, read.count, len(read.unpacked)) == (written.visible, 2 * PACK + 1, 1)
    read.append(["more"])
    with pytest.raises(LeaseError):  # the one before was fenced off
        written.append(["late"])
    assert Segments.read(store).visible == {*written.visible, "more"}


def test_a_segment_that_is_missing_is_named_unless_a_pack_holds_it(tmp_path: Path) -> None:
    store = made(tmp_path)
    written = Segments.read(store, "a")
    for number in range(2 * PACK + 2):
        written.append([f"shard-{number}"])
    (tmp_path / PACKED_SEGMENTS / f"{name(0)}.json").unlink()  # the second is no pack without the first
    assert Segments.read(store).visible == written.visible
    for number in (2 * PACK, PACK):
        (tmp_path / SEGMENTS / f"{name(number)}.json").unlink()
        with pytest.raises(PublishError, match=f"lacks {name(number)}"):
            Segments.read(store)


@pytest.mark.parametrize("step", range(4 * PACK + 4))
def test_killed_at_any_step_of_writing_what_was_committed_is_visible_and_the_next_one_goes_on(
    step: int, tmp_path: Path
) -> None:
    """Each of 2 * PACK segments and 2 packs is written in one step, before and after which the process may end."""
    store, committed = made(tmp_path, step), -1
    dying = Segments.read(store, "a")
    with pytest.raises(Killed):
        for number in range(2 * PACK):
            dying.append([f"shard-{number}"])
            committed = number
    after = made(tmp_path)
    found = Segments.read(after, "b")
    assert found.visible == {f"shard-{number}" for number in range(found.count)}
    assert committed + 1 <= found.count <= committed + 2
    while found.count < 2 * PACK:
        found.append([f"shard-{found.count}"])
    found.append([])
    assert files(after, PACKED_SEGMENTS) == [name(0), name(PACK)], "what the dead one left unpacked"
    assert Segments.read(after).visible == found.visible == {f"shard-{number}" for number in range(2 * PACK)}


WRITER = """
import sys
from jobs.output import segments
from tests.jobs.output.test_segments import made
segments.PACK_SEGMENTS = 3
found = segments.Segments.read(made(__import__("pathlib").Path(sys.argv[1])), "a")
while True:
    found.append([f"shard-{found.count}"])
"""


def test_a_process_that_is_killed_while_it_writes_leaves_what_can_be_read(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    try:
        until = time.monotonic() + 120
        while len(files(made(tmp_path), SEGMENTS)) < 10 * PACK:
            assert writer.poll() is None and time.monotonic() < until
            time.sleep(0.01)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    found = Segments.read(made(tmp_path), "b")
    assert found.count == len(files(made(tmp_path), SEGMENTS))
    assert found.visible == {f"shard-{number}" for number in range(found.count)}
    found.append([])
    assert len(found.unpacked) < PACK


def test_a_pack_that_can_not_be_written_costs_nothing_and_one_that_is_damaged_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = made(tmp_path)
    (tmp_path / PACKED_SEGMENTS).write_text("a file where a folder should be")
    written = Segments.read(store, "a")
    for number in range(PACK):
        written.append([f"shard-{number}"])
    (tmp_path / PACKED_SEGMENTS).unlink()
    assert Segments.read(store).visible == written.visible
    written.append([])
    assert "could not be packed" in caplog.text
    (pack,) = (tmp_path / PACKED_SEGMENTS).iterdir()
    content = json.loads(pack.read_text())
    for damaged in ("", "[]", '{"segments": 3}', json.dumps({"segments": content["segments"][1:]}),
                    json.dumps({"segments": [*content["segments"][1:], {"adds": [1], "drops": []}]})):  # fmt: skip
        pack.write_text(damaged)
        with pytest.raises(PublishError, match=f"{pack.name} is damaged .*remove it"):
            Segments.read(store)
    pack.unlink()
    assert Segments.read(store).visible == written.visible


def test_a_bucket_packs_too_and_a_pack_of_before_stays(s3: Seaweed, tmp_path: Path) -> None:
    store = S3Store.of(f"s3://{BUCKET}/{tmp_path.name}", s3.url)
    written = Segments.read(store, "a")
    for number in range(2 * PACK):
        written.append([f"shard-{number}"])
    store.delete(f"{PACKED_SEGMENTS}/{name(0)}.json")  # the second stays, and is no pack without the first
    read = Segments.read(store, "b")
    assert (read.visible, len(read.unpacked)) == (written.visible, 2 * PACK)
    read.append([])
    packs = [one for one, _ in store.sizes(PACKED_SEGMENTS)]
    assert [Path(one).stem for one in packs] == [name(0), name(PACK)]
    store.delete_all([f"{SEGMENTS}/{name(number)}.json" for number in range(2 * PACK)])
    assert Segments.read(store).visible == written.visible
