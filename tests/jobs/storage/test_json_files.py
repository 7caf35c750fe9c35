"""JSON files of a directory: what is none is said by its name, and is no answer."""

from pathlib import Path

import pytest

from jobs.errors import PublishError
from jobs.storage.json_files import read_json, to_json, write_json


def test_an_object_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_json(path, {"b": 1, "a": None})
    write_json(path, {"b": 2, "a": None})
    assert read_json(path) == {"a": None, "b": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"7", b"\xff\xfe"])
def test_what_is_no_object_is_refused_by_its_files_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(PublishError, match=r"state\.json is damaged"):
        read_json(path)


def test_what_is_no_json_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"seconds": float("nan")})
