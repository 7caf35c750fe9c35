"""`keyanon keystore identity`, and what `sign-in` and `serve --oidc` refuse before anybody is asked."""

from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from keystore.served import ServedKeystore

from .conftest import Ended, Keyanon

ISSUER = "https://login.example"


def bind(keyanon: Keyanon, keystore: Path, name: str = "Dora", role: str = "approver", *more: str) -> Ended:
    said = ("--issuer", ISSUER, "--subject", "248289761001", "--role", role, "--as", "o", "--json")
    return keyanon("keystore", "identity", "bind", keystore, name, *said, *more)


def test_an_identity_is_bound_listed_without_itself_and_unbound(keyanon: Keyanon, keystore: Path) -> None:
    bound = bind(keyanon, keystore)
    assert bound.code == 0, bound.err
    (listed,) = keyanon("keystore", "identity", "list", keystore, "--json").json["identities"]
    assert (listed["binding_id"], listed["person"], listed["role"]) == (bound.json["binding"], "dora", "approver")
    assert "248289761001" not in str(listed) and ISSUER not in str(listed)
    other = bind(keyanon, keystore, "Mallory")
    assert other.code == ExitCode.REFUSED and "another person" in other.err
    assert keyanon("keystore", "identity", "unbind", keystore, bound.json["binding"], "--as", "o").code == 0
    again = keyanon("keystore", "identity", "unbind", keystore, bound.json["binding"], "--as", "o")
    assert again.code == ExitCode.REFUSED and "ended before" in again.err
    with ServedKeystore.open(keystore) as opened:
        assert opened.bindings()[0].unbound_at is not None


@pytest.mark.parametrize(("role", "code"), [("king", ExitCode.USAGE), ("ingest", ExitCode.REFUSED)])
def test_a_role_that_nobody_signs_in_for_is_refused(
    role: str, code: ExitCode, keyanon: Keyanon, keystore: Path
) -> None:
    assert bind(keyanon, keystore, "Dora", role).code == code


def test_a_sign_in_that_can_not_begin_leaves_no_file_and_none_altered(keyanon: Keyanon, tmp_path: Path) -> None:
    out = tmp_path / "dora.token"
    refused = keyanon("keystore", "sign-in", "http://keystore.example", "--out", out, "--no-browser")
    assert refused.code == ExitCode.INPUT and "https" in refused.err and not out.exists()
    out.write_text("a letter")
    out.chmod(0o600)
    refused = keyanon("keystore", "sign-in", "https://127.0.0.1:9", "--out", out, "--no-browser")
    assert refused.code == ExitCode.INPUT and "no token file" in refused.err and out.read_text() == "a letter"
    out.write_text("")
    refused = keyanon("keystore", "sign-in", "http://keystore.example", "--out", out, "--no-browser")
    assert "https" in refused.err and not out.exists(), "what a killed command left is no obstacle"


def test_a_service_with_settings_that_can_not_be_right_does_not_start(
    keyanon: Keyanon, keystore: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "oidc.yaml"
    settings.write_text("issuer: http://login.example\n")
    refused = keyanon("keystore", "serve", keystore, "--oidc", settings)
    assert refused.code == ExitCode.INPUT and "issuer" in refused.err
