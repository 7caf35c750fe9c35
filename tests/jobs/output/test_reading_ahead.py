"""How often row shards are read, and how many at once."""

import threading
from typing import Any

import pytest

from jobs.errors import PublishError
from jobs.output import publisher as publishing
from jobs.output.layout import SEGMENTS
from jobs.output.row_shards import listed_files, standing_rows
from jobs.output.segments import Segments
from jobs.storage.local import LocalStore
from jobs.storage.store import Store
from tests.jobs.publishing import Place, block, quarantined

AT_ONCE = 4


class Bucketlike(LocalStore):
    """A folder that is read as a bucket is, and where a shard is read only while others are."""

    shared = True
    together = threading.Barrier(AT_ONCE, timeout=60)

    def open_parquet(self, name: str) -> Any:
        self.together.wait()
        return super().open_parquet(name)


def test_row_shards_of_a_bucket_are_read_several_at_once(place: Place) -> None:
    with place.attempt() as attempt:
        attempt.run([[quarantined(row, f"{row}.png")] for row in range(AT_ONCE * 2)], AT_ONCE * 2)
    store = Bucketlike(place.out)
    store.make_folder(SEGMENTS)
    Segments(store, "x").append([path.stem for path in (place.out / "rows").iterdir()])
    rows = [part.table.column("row").to_pylist() for part in standing_rows(store, ["row"], at_once=AT_ONCE)]
    assert rows == [[row] for row in range(AT_ONCE * 2)]


def test_what_visible_rows_list_is_read_once_for_all_blocks_that_meet_leftovers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[Store]()

    def look(store: Store) -> Any:
        looks.append(store)
        return listed_files(store)

    monkeypatch.setattr(publishing, "listed_files", look)
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "a.jpg")]], 1)
    for name in ("b", "c", "d"):
        (place.out / f"images/{name}.jpg.png").write_bytes(b"left by a killed attempt")
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        for row, name in enumerate(("b.jpg", "c.jpg", "d.jpg"), 1):
            attempt.sink().stage(block([place.result(row, name)]))
            publisher.publish_complete()
        assert len(looks) == 1
        attempt.sink().stage(block([place.result(4, "c.jpg", b"of another row")]))
        with pytest.raises(PublishError, match=r"c\.jpg\.png belongs to another row"):
            publisher.publish_complete()
    place.check_visible()
    assert len(looks) == 1 and {row["image_id"] for row in place.rows()} == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
