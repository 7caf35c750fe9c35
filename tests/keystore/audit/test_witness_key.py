"""The key of a witness: made once, closed to others, and never taken from what is none."""

from pathlib import Path

import pytest

from keystore.audit.cosignature import parse_witness_vkey
from keystore.audit.witnessing import KEY_NAME, WitnessKey
from keystore.errors import StorageError


def test_a_witness_keeps_its_key(tmp_path: Path) -> None:
    made = WitnessKey.open_or_create(tmp_path / "witness")
    again = WitnessKey.open_or_create(tmp_path / "witness")
    assert again.vkey == made.vkey and parse_witness_vkey(made.vkey)[0] == made.name
    assert (tmp_path / "witness" / KEY_NAME).stat().st_mode & 0o077 == 0
    assert WitnessKey.open_or_create(tmp_path / "another").vkey != made.vkey


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_a_key_that_others_may_have_read_signs_nothing(tmp_path: Path, mode: int) -> None:
    WitnessKey.open_or_create(tmp_path)
    (tmp_path / KEY_NAME).chmod(mode)
    with pytest.raises(StorageError, match="open to others"):
        WitnessKey.open_or_create(tmp_path)


@pytest.mark.parametrize("content", [b"", b"one line\n", b"a\nb\nnot base64!\n", b"\xff\n\xff\n\xff\n"])
def test_a_file_that_is_no_key_is_not_written_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_NAME).write_bytes(content)
    (tmp_path / KEY_NAME).chmod(0o600)
    with pytest.raises(StorageError, match="no witness's key"):
        WitnessKey.open_or_create(tmp_path)
    assert (tmp_path / KEY_NAME).read_bytes() == content
