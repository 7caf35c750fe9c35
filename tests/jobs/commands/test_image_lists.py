"""A request for many images names them in a file, or on stdin."""

import io
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode

from .conftest import Keyanon

WORDS = ("--case", "C-17", "--purpose", "identify the person", "--legal-basis", "court-order: 12/26", "--expires", "2h")


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_images_of_a_list_are_asked_for_beside_those_that_are_named(
    keyanon: Keyanon, keystore: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    text = "\ufeffb.jpg\r\n\r\na.jpg\nb.jpg\n"  # as Windows and others have it
    (tmp_path / "list.txt").write_bytes(text.encode())
    monkeypatch.setattr("sys.stdin", io.StringIO(text, newline=None))
    given = tmp_path / "list.txt" if way == "file" else "-"
    ended = keyanon("request", keystore, "--image", "a.jpg", "--images", given, *WORDS, "--as", "ines", "--json")
    assert ended.code == 0, ended.err
    assert sorted(image["image_id"] for image in ended.json["images"]) == ["a.jpg", "b.jpg"], "each once"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\n", None])
def test_a_list_that_names_nothing_or_can_not_be_read_is_refused(
    keyanon: Keyanon, keystore: Path, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    ended = keyanon("request", keystore, "--images", tmp_path / "list.txt", *WORDS, "--as", "ines")
    assert ended.code == ExitCode.USAGE and "--images" in ended.err
