"""The rows of Parquet with clips, as an output tells them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.output.clip_rows import CLIP_ROWS, write_clip_rows
from jobs.sources.clips import Clips
from jobs.storage.opening import open_store
from jobs.storage.store import Store
from tests.jobs.conftest import MakeConfig
from tests.jobs.sources.test_clips import open_clips
from tests.jobs.tiny_clips import tiny_clip

LONG = f"{'n' * 220}.mp4"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


@pytest.fixture
def source(tmp_path: Path, make_config: MakeConfig) -> Clips:
    clip = tiny_clip(tmp_path / "a.mp4", frames=2)
    (tmp_path / "photos").mkdir()
    rows = {"name": ["a", "b", LONG], "video": [clip, b"none", clip], "label": [1, 2, 3]}
    pq.write_table(pa.table(rows), tmp_path / "photos" / "x.parquet")
    return open_clips(make_config, image_column="video", id_column="name")


def written(tmp_path: Path) -> dict[str, list[object]]:
    found: dict[str, list[object]] = pq.read_table(tmp_path / "out" / CLIP_ROWS).to_pydict()
    return found


def test_each_row_says_where_its_clip_is_published(tmp_path: Path, store: Store, source: Clips) -> None:
    write_clip_rows(store, source, ["a.mp4"])
    assert written(tmp_path) == {"name": ["a", "b", LONG], "video": ["clips/a.mp4", None, None], "label": [1, 2, 3]}
    write_clip_rows(store, source, [LONG])
    first, _, last = written(tmp_path)["video"]
    assert first is None and str(last).startswith("clips/nnn") and str(last).endswith(".mp4")
    assert len(Path(str(last)).name) < len(LONG), "as the clip itself is called, which has a file beside it"


def test_rows_that_can_not_be_read_any_more_end_no_run(
    tmp_path: Path, store: Store, source: Clips, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip_rows(store, source, ["a.mp4"])
    (tmp_path / "photos" / "x.parquet").write_bytes(b"nothing of Parquet")
    write_clip_rows(store, source, ["a.mp4"])
    assert f"{CLIP_ROWS} is not written" in caplog.text
    assert not (tmp_path / "out" / CLIP_ROWS).exists(), "an earlier one says what is not so any more"


def test_clips_that_are_files_have_no_rows(tmp_path: Path, store: Store, make_config: MakeConfig) -> None:
    tiny_clip(tmp_path / "photos" / "a.mp4", frames=2)
    write_clip_rows(store, open_clips(make_config), ["a.mp4"])
    assert not (tmp_path / "out" / CLIP_ROWS).exists()
