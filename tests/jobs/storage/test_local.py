"""What a disk alone can do to an output: lose what was not synced, and keep what is to go."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.storage.local import LocalStore
from jobs.storage.store import Copy


class Disk:
    """What a power cut would leave: of the files that were synced the bytes of that moment, and the names of synced folders."""

    def __init__(self) -> None:
        self._files: dict[int, bytes] = {}
        self._names: dict[int, set[str]] = {}
        self._sync = os.fsync

    def fsync(self, descriptor: int) -> None:
        self._sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._names[path.stat().st_ino] = {child.name for child in path.iterdir()}
        else:
            self._files[path.stat().st_ino] = path.read_bytes()

    def holds(self, root: Path, name: str, content: bytes) -> bool:
        """Whether a file would be there with that content, and each folder above it, up to the root."""
        path = root / name
        above = [path, *path.parents[: len(path.relative_to(root).parts) - 1]]
        names = all(one.name in self._names.get(one.parent.stat().st_ino, ()) for one in above)
        return names and self._files.get(path.stat().st_ino) == content

    def lacks(self, path: Path) -> bool:
        return path.name not in self._names.get(path.parent.stat().st_ino, {path.name})


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


def _written(store: LocalStore) -> None:
    with store.writing("deep/er/x") as file:
        file.write(b"one")


def _published(store: LocalStore) -> None:
    store.make_folder("attempt")
    store.make_staging("attempt/block")
    store.fill("attempt/block", [("0", b"one")])
    store.publish([Copy("attempt/block/0", "deep/er/x", b"one")])


@pytest.mark.parametrize(
    "make",
    [_written, _published, lambda store: store.replace("deep/er/x", b"one", None)],
    ids=["writing", "publish", "replace"],
)
def test_what_a_store_has_made_survives_a_power_cut(
    tmp_path: Path, disk: Disk, make: Callable[[LocalStore], object]
) -> None:
    store = LocalStore(tmp_path)
    make(store)
    assert disk.holds(tmp_path, "deep/er/x", b"one")


def test_what_was_staged_survives_a_power_cut_with_its_folder_and_what_was_removed_does_not(
    tmp_path: Path, disk: Disk
) -> None:
    store = LocalStore(tmp_path)
    store.make_folder("attempt")
    store.make_staging("attempt/block")
    store.fill("attempt/block", [("0", b"one"), ("1", b"two")])
    assert disk.holds(tmp_path, "attempt/block/0", b"one") and disk.holds(tmp_path, "attempt/block/1", b"two")
    store.delete("attempt/block/0")
    assert disk.lacks(tmp_path / "attempt/block/0") and not disk.lacks(tmp_path / "attempt/block/1")


def test_a_file_that_can_not_go_yet_does_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS keeps a file that another process has open."""
    store = LocalStore(tmp_path)
    for folder in ("all/a", "all/b"):
        store.make_folder(folder)
        store.create(f"{folder}/x", b"")

    def kept(path: str | Path, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as busy:
        busy.setattr(os, "unlink", kept)
        store.remove_folder("all/a")
        store.remove_folders("all")
    left = {path.name for path in (tmp_path / "all").iterdir()}
    assert len(left) == 2 and not {"a", "b"} & left, "nobody goes on filling them"
    store.remove_folders("all")
    assert list((tmp_path / "all").iterdir()) == []
