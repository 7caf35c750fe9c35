"""Which file is a source's anonymized picture, and what is said where that is not clear."""

import pickle
from pathlib import Path

import pytest

from jobs.errors import SourceError
from jobs.evaluate.counterparts import OfFolder
from jobs.storage.opening import open_store
from keyanon_core.errors import PictureError


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
