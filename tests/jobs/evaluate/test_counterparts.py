"""Which file is a source's anonymized picture, and what is said where that is not clear."""

import os
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import SHARD_SCHEMA
from jobs.errors import SourceError
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.counterparts import Counterparts, OfFolder, OfRun
from jobs.evaluate.measure_stage import MEASURED
from jobs.evaluate.run import Subject, _there
from jobs.output.layout import ROWS, shard_file
from jobs.output.reader import Row
from jobs.sources.source import Source, open_source
from jobs.storage.opening import open_store
from keyanon_core.errors import PictureError
from tests.jobs.conftest import MakeConfig


def folder(root: Path, *names: str) -> OfFolder:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return OfFolder.of(open_store(root), max_bytes=100)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.png", "sub/a.jpg"),
        ("sub/a.jpg.png", "sub/a.jpg"),  # as `keyanon recover` writes it
        ("a.jpg.png", "a.png"),  # any tool's habit
        ("part.parquet%230.png", "part.parquet#0"),
        ("a", "a"),
    ],
)
def test_a_picture_is_found_by_its_name_and_by_that_without_a_suffix(tmp_path: Path, name: str, image_id: str) -> None:
    if name == "a":
        with pytest.raises(SourceError, match="holds no picture"):
            folder(tmp_path, name)
        return
    found = folder(tmp_path, name, "other.png")
    assert found.has(image_id) and found.read(image_id) == name.encode()
    assert not found.has(f"not/{image_id}") and not found.has("b.jpg")


def test_the_same_name_wins_over_another_suffix(tmp_path: Path) -> None:
    assert folder(tmp_path, "a.jpg", "a.png", "a.jpg.png").read("a.jpg") == b"a.jpg"


def test_a_file_of_one_sources_very_name_is_not_taken_for_anothers(tmp_path: Path) -> None:
    """As where a tool did not publish a.jpg, beside which a.png is another picture."""
    found = folder(tmp_path, "a.png", "b.png").among({"a.jpg", "a.png", "b.jpg"})
    assert not found.has("a.jpg") and found.read("a.png") == b"a.png" and found.read("b.jpg") == b"b.png"


def test_pictures_of_no_source_are_known(tmp_path: Path) -> None:
    """Renamed ones may be anybody: an evaluation says that it measured none of them."""
    ids = frozenset({"a.jpg", "a.png", "b.jpg", "c.jpg"})
    found = folder(tmp_path, "a.png", "b.jpg.png", "c.png", "c.webp", "d.jpg", "sub/b.jpg").among(ids)
    assert found.of_none(ids) == ["d.jpg", "sub/b.jpg"], "two that may both be c.jpg's are refused elsewhere"
    assert found.of_none(ids - {"a.png", "b.jpg"}) == ["a.png", "b.jpg.png", "d.jpg", "sub/b.jpg"]


def test_two_that_may_be_meant_are_refused_by_name(tmp_path: Path) -> None:
    found = folder(tmp_path, "a.webp", "a.png")
    with pytest.raises(PictureError, match=r"must hold one picture of a\.jpg, and holds a\.png, a\.webp"):
        found.read("a.jpg")


def test_a_file_that_is_gone_or_too_large_costs_its_picture_only(tmp_path: Path) -> None:
    found = folder(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(bytes(101))
    for image_id in ("a.jpg", "b.jpg"):
        with pytest.raises(PictureError, match="can not be read"):
            found.read(image_id)


def test_it_travels(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(folder(tmp_path, "a.jpg"))).read("a.jpg") == b"a.jpg"


def test_other_pictures_in_the_same_place_have_another_digest(tmp_path: Path) -> None:
    before = folder(tmp_path, "a.jpg").digest()
    assert folder(tmp_path).digest() == before
    assert folder(tmp_path, "b.jpg").digest() != before
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "a.jpg").write_bytes(b"another")
    assert folder(tmp_path).digest() != before


def made_of(place: Path, source: Source) -> OfRun:
    """What a run of these sources would have published."""
    rows = {
        name: Row(
            name, "anonymized", "", f"record of {name}", name, None, 1, 0, False, None, "", 0, int(source.versions[at])
        )
        for at, name in enumerate(next(iter(source.ids.parts())))
    }
    return OfRun(open_store(place), rows, {})


def test_a_source_that_changed_since_the_run_is_not_held_against_what_the_run_made_of_it(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    config = make_config()
    photos = Path(config.photos)
    folder(photos, "a.jpg", "b.jpg", "c.jpg")
    run = made_of(tmp_path, open_source(config))

    def there(place: Path, named: bool = False) -> tuple[list[int], list[int]]:
        changes = {"run": tmp_path / "run", "output": tmp_path / "report", "photos": str(place)}
        evaluated = EvaluateConfig.of_run(config, changes)
        versions: dict[str, Counterparts] = {MEASURED: run}
        source = open_source(evaluated)
        ids = [image_id for part in source.ids.parts() for image_id in part]
        found, changed = _there(source, ids, Subject(evaluated, versions, config, {}, named))
        return found.tolist(), changed.tolist()

    assert there(photos) == ([0, 1, 2], [])
    (photos / "b.jpg").write_bytes(b"somebody else")
    assert there(photos) == ([0, 2], [1])
    copies = tmp_path / "copies"
    folder(copies, "a.jpg", "b.jpg", "c.jpg")
    assert there(copies, named=True) == ([0, 1, 2], []), "copied without their times: nothing is known"
    for name in ("a.jpg", "c.jpg"):
        shutil.copy2(photos / name, copies / name)
    assert there(copies, named=True) == ([0, 2], [1])
    folder(photos, "a.jpg", "c.jpg")
    for name in ("a.jpg", "c.jpg"):
        os.utime(photos / name, (0, 0))
    with pytest.raises(SourceError, match=r"a\.jpg and all other sources .* name them by --source"):
        there(photos)
    assert there(photos, named=True) == ([0, 1, 2], []), "where they were, but put back without their times"


def test_of_a_run_the_published_pictures_are_found_and_all_others_counted(tmp_path: Path) -> None:
    """Those that were passed without a face too; two of one id are none, for nobody knows which is which source's."""
    rows = [
        ("a", "anonymized", "images/a"),
        ("twice", "anonymized", "images/twice"),
        ("passed", "no_face", "images/passed"),
        ("kept out", "no_face", None),
        ("damaged", "quarantined", None),
        ("twice", "quarantined", None),
    ]
    (tmp_path / ROWS).mkdir()
    columns = [{"row": at, "image_id": i, "status": s, "output": o, "faces": 0} for at, (i, s, o) in enumerate(rows)]
    pq.write_table(
        pa.Table.from_pylist(columns, schema=SHARD_SCHEMA),
        tmp_path / shard_file("000000000-0123456789abcdef-0123456789ab"),
    )
    found = OfRun.of(open_store(tmp_path))
    assert {name for name, _, _ in rows if found.has(name)} == {"a", "passed"}
    assert found.of_none({"a", "damaged"}) == ["passed"]
    with pytest.raises(PictureError, match="images/a"):
        found.read("a")
    assert found.unpublished == {"repeated id": 1, "no_face": 1, "quarantined": 2}, "each row once"
    assert OfRun(found.store, {"a": found.rows["a"]}, {}).digest() != found.digest()
    assert pickle.loads(pickle.dumps(found)) == found
