"""The KEK in a file, and the choice of a KEK by its URI."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from keystore.errors import KekError, TamperedError
from keystore.kek.provider import create_kek, open_kek


def test_a_kek_file_is_made_private_and_used_again(tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/deep/kek.key"
    made, is_new = create_kek(uri)
    again, is_new_again = create_kek(uri)
    assert (is_new, is_new_again) == (True, False)
    assert made.kek_id == again.kek_id
    assert stat.S_IMODE((tmp_path / "deep/kek.key").stat().st_mode) == 0o600
    assert again.unwrap(made.wrap(b"secret", b"c"), b"c") == b"secret"
    assert (tmp_path / "deep/kek.key").read_text().split()[1] not in repr(made)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777])
def test_a_kek_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    create_kek(f"file:{tmp_path}/kek.key")
    (tmp_path / "kek.key").chmod(mode)
    with pytest.raises(KekError, match="chmod 600"):
        open_kek(f"file:{tmp_path}/kek.key")


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"keyanon-kek-1\n", b"keyanon-kek-1\nAAAA\n", b"\xff\xfe", b"x" * 5000]
)
def test_a_damaged_kek_file_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kek.key").write_bytes(content)
    (tmp_path / "kek.key").chmod(0o600)
    with pytest.raises(KekError, match="damaged"):
        open_kek(f"file:{tmp_path}/kek.key")


def test_a_missing_kek_is_never_replaced_by_a_new_one_on_opening(tmp_path: Path) -> None:
    with pytest.raises(KekError, match="missing"):
        open_kek(f"file:{tmp_path}/kek.key")
    assert not (tmp_path / "kek.key").exists()


@pytest.mark.parametrize("uri", ["", "kek.key", "http://x", "file:", "hsm:token=ks", "PKCS11:token=ks;object=x"])
def test_an_unknown_scheme_is_refused(uri: str) -> None:
    with pytest.raises(KekError, match="no known scheme"):
        open_kek(uri)


def test_a_wrapped_key_bound_to_another_place_does_not_unwrap(tmp_path: Path) -> None:
    kek, _ = create_kek(f"file:{tmp_path}/kek.key")
    with pytest.raises(TamperedError):
        kek.unwrap(kek.wrap(b"secret", b"row 1"), b"row 2")
