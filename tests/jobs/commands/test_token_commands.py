"""`keyanon keystore token` and the refusals of `keyanon keystore serve`."""

import stat
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from keystore.errors import StorageError
from keystore.served import ServedKeystore
from keystore.service.token_file import TokenFile

from .conftest import Ended, Keyanon


def issue(keyanon: Keyanon, keystore: Path, out: Path, *more: object, role: str = "auditor") -> Ended:
    return keyanon(
        "keystore",
        "token",
        "issue",
        keystore,
        "--for",
        "eve",
        "--role",
        role,
        "--out",
        out,
        "--as",
        "o",
        "--json",
        *more,
    )


def test_a_token_is_in_its_file_only_and_ends_when_it_is_revoked(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eve.token"
    made = issue(keyanon, keystore, out)
    assert made.code == 0, made.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    held = TokenFile.read(out)
    assert held.token not in made.out + made.err and held.token not in repr(held)
    assert made.json["token"] in held.token
    with ServedKeystore.open(keystore) as opened:
        assert opened.authenticate(held.token) is not None
        assert held.audit_vkey == opened.audit_vkey
    assert keyanon("keystore", "token", "revoke", keystore, made.json["token"], "--as", "o").code == 0
    (listed,) = keyanon("keystore", "token", "list", keystore, "--json").json["tokens"]
    assert listed["revoked_at"] is not None and held.token.split("_")[2] not in str(listed)
    again = keyanon("keystore", "token", "revoke", keystore, made.json["token"], "--as", "o")
    assert again.code == ExitCode.REFUSED and "before" in again.err


def test_a_token_is_written_over_nothing_and_a_refused_one_leaves_no_file(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eve.token"
    out.write_text("kept")
    assert issue(keyanon, keystore, out).code == ExitCode.INPUT
    assert out.read_text() == "kept"
    missing = issue(keyanon, keystore, tmp_path / "job.token", role="ingest")
    assert missing.code == ExitCode.REFUSED and "data set" in missing.err
    assert issue(keyanon, keystore, tmp_path / "x.token", role="king").code == ExitCode.USAGE
    assert issue(keyanon, keystore, tmp_path / "x.token", "--expires", "never").code == ExitCode.USAGE
    assert sorted(path.name for path in tmp_path.glob("*.token")) == ["eve.token"]
    with ServedKeystore.open(keystore) as opened:
        assert opened.tokens() == [], "and no token"


def test_a_token_file_that_others_may_read_is_refused(keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    out = tmp_path / "eve.token"
    issue(keyanon, keystore, out)
    out.chmod(0o640)
    with pytest.raises(StorageError, match="open to others"):
        TokenFile.read(out)
    for content in (b"", b"x\ny\nz\n", b"\xff" * 20, out.read_bytes() + b"more\n"):
        out.unlink()
        out.touch(0o600)
        out.write_bytes(content)
        with pytest.raises(StorageError, match="no token file"):
            TokenFile.read(out)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "keystore.example"])
def test_nothing_is_served_to_others_without_tls(host: str, keyanon: Keyanon, keystore: Path, tmp_path: Path) -> None:
    ended = keyanon("keystore", "serve", keystore, "--host", host, "--port", 0)
    assert ended.code == ExitCode.INPUT and "certificate" in ended.err
    nothing = tmp_path / "nothing.pem"
    only = keyanon("keystore", "serve", keystore, "--host", host, "--tls-certificate", nothing)
    assert only.code == ExitCode.INPUT and "both" in only.err
    missing = ("--tls-certificate", nothing, "--tls-key", nothing)
    assert keyanon("keystore", "serve", keystore, "--host", host, *missing).code == ExitCode.INPUT
