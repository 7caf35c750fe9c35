"""A KEK that is kept elsewhere does what one in a file does, and whatever goes wrong with it is said and releases nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.stub import ANY, Stubber

from keystore.embedded import Keystore
from keystore.errors import KekError, KeystoreError, TamperedError, WrongKekError
from keystore.kek.awskms import KmsKek
from keystore.kek.provider import create_kek, open_kek
from keystore.verification.verify import verify_audit
from tests.keystore.kek.servers import PIN, TOKEN, Bao, hsm_settings, soft_hsm

MODULE = soft_hsm()
HSM = f"pkcs11:token={TOKEN};object=kek"
BAO = "vault:transit/kek"
USES = ("read on transit/keys/kek", "update on transit/encrypt/kek", "update on transit/decrypt/kek")
MAKES = ("create on transit/keys/kek", "update on transit/keys/kek")


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A token, and the settings to reach it. The directory that it lies in."""
    if MODULE is None:
        pytest.skip("SoftHSM2 is not installed (apt-get install softhsm2)")
    import pkcs11

    root = tmp_path / "hsm"
    root.mkdir()
    for name, value in hsm_settings(root, MODULE).items():
        monkeypatch.setenv(name, value)
    pkcs11.unload(MODULE)  # it has read the settings of another test
    yield root
    pkcs11.unload(MODULE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    server = Bao(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture
def bao(server: Bao, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bao]:
    """A server, and the settings to reach it with no more rights than are needed."""
    for name, value in server.settings(server.token(*USES, *MAKES)).items():
        monkeypatch.setenv(name, value)
    yield server
    server.ask("POST", "sys/mounts/transit/tune", {})
    server.ask("DELETE", "sys/mounts/transit")
    server.ask("POST", "sys/mounts/transit", {"type": "transit"})


@pytest.fixture(params=[HSM, BAO])
def uri(request: pytest.FixtureRequest) -> str:
    """The URI of a KEK in each of them, none made yet."""
    request.getfixturevalue("hsm" if request.param == HSM else "bao")
    return str(request.param)


def test_it_is_made_once_and_wraps_what_opens_under_its_context_alone(uri: str) -> None:
    made, is_new = create_kek(uri)
    again, is_new_again = create_kek(uri)
    assert (is_new, is_new_again) == (True, False)
    assert made.kek_id == again.kek_id
    wrapped = made.wrap(b"secret", b"here")
    assert b"secret" not in wrapped
    assert made.wrap(b"secret", b"here") != wrapped
    assert open_kek(uri).unwrap(wrapped, b"here") == b"secret"
    for altered, context in (
        (wrapped, b"there"),
        (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"here"),
        (wrapped[:20], b"here"),
        (b"", b"here"),
        (b"\xff" * 60, b"here"),
    ):
        with pytest.raises(TamperedError, match="altered or moved"):
            made.unwrap(altered, context)


def test_a_missing_one_is_never_replaced_on_opening(uri: str) -> None:
    for _ in range(2):
        with pytest.raises(KekError):
            open_kek(uri)


def test_a_keystore_under_it_takes_in_approves_releases_and_verifies(uri: str, tmp_path: Path, make) -> None:
    with Keystore.create(tmp_path / "ks", uri) as keystore:
        assert keystore.warnings == ()
        make.deposit(keystore, [make.record("a.png")])
        assert keystore.ingest(make.RUN).ingested == 1
    with Keystore.open(tmp_path / "ks") as keystore:  # the URI is in the database
        assert [one.image_id for one in make.take(keystore, make.approved(keystore, "a.png"))] == ["a.png"]
    assert verify_audit(tmp_path / "ks").ok
    assert not (tmp_path / "ks" / "kek.key").exists()


def test_a_keystore_moves_from_a_file_to_it(uri: str, keystore: Keystore, make) -> None:
    request_id = make.approved(keystore, "a.png")
    keystore.rotate_kek(uri, "Olga")
    (keystore.path / "kek.key").unlink()
    with Keystore.open(keystore.path) as again:
        assert make.take(again, request_id)
        again.erase("photos", by="Olga", image_id="b.png")
    assert verify_audit(keystore.path).problems == []


def test_a_uri_exchanged_in_the_database_opens_nothing(uri: str, keystore: Keystore) -> None:
    keystore.close()
    other, _ = create_kek(uri)
    connection = sqlite3.connect(keystore.path / "keystore.db")
    connection.execute("UPDATE kek_versions SET uri = ?, kek_id = ?", (uri, other.kek_id))
    connection.commit()
    connection.close()
    with pytest.raises((TamperedError, WrongKekError)):
        Keystore.open(keystore.path)


# The token


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:",
        "pkcs11:token=keyanon",
        "pkcs11:object=kek",
        "pkcs11:token=;object=kek",
        "pkcs11:token=keyanon;object=kek;pin-value=1234",
        "pkcs11:token=keyanon;object=kek?pin-value=1234",
        "pkcs11:token=keyanon;object=kek?module-path=/tmp/evil.so",
        "pkcs11:slot-id=0;object=kek",
    ],
)
def test_a_uri_that_says_more_or_less_than_which_key_is_refused_unechoed(uri: str) -> None:
    with pytest.raises(KekError) as refused:
        create_kek(uri)
    assert "1234" not in str(refused.value) and "evil" not in str(refused.value)


def test_names_may_be_quoted_and_the_serial_stand_for_the_label(hsm: Path) -> None:
    made, _ = create_kek("pkcs11:token=key%61non;object=an%20odd%3Bname")
    import pkcs11

    serial = pkcs11.lib(MODULE).get_token(token_label=TOKEN).serial.decode()
    assert open_kek(f"pkcs11:serial={serial};object=an%20odd%3Bname").kek_id == made.kek_id


@pytest.mark.parametrize("name", ["KEYANON_PKCS11_MODULE", "KEYANON_PKCS11_PIN_FILE"])
def test_without_a_setting_it_says_which(hsm: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(KekError, match=f"{name} is not set"):
        create_kek(HSM)


def test_a_wrong_pin_a_pin_for_all_to_read_and_none_are_refused_unechoed(hsm: Path) -> None:
    create_kek(HSM)
    pin = hsm / "pin"
    for change, words in (
        (lambda: pin.write_text("0000-wrong"), "PinIncorrect"),
        (lambda: pin.chmod(0o644), "chmod 600"),
        (lambda: pin.write_bytes(b"\xff\xfe"), "chmod 600|can not be read"),
        (pin.unlink, "can not be read"),
    ):
        change()
        with pytest.raises(KekError, match=words) as refused:
            open_kek(HSM)
        assert PIN not in str(refused.value) and "0000-wrong" not in str(refused.value)


def test_a_token_that_went_away_while_the_keystore_was_open_releases_nothing(hsm: Path, tmp_path: Path, make) -> None:
    with Keystore.create(tmp_path / "ks", HSM) as keystore:
        make.deposit(keystore, [make.record("a.png")])
        keystore.ingest(make.RUN)
    with Keystore.open(tmp_path / "ks") as keystore:
        request_id = make.approved(keystore, "a.png")
        (hsm / "tokens").rename(hsm / "away")
        with pytest.raises(KeystoreError):
            make.take(keystore, request_id)
        (hsm / "away").rename(hsm / "tokens")
        assert make.take(keystore, request_id)


def test_two_keys_of_one_name_and_one_that_can_be_read_out_are_refused(hsm: Path) -> None:
    import pkcs11

    made, _ = create_kek(HSM)
    with pkcs11.lib(MODULE).get_token(token_label=TOKEN).open(user_pin=PIN, rw=True) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, id=b"2", label="kek", store=True)
        out = {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False}
        session.generate_key(pkcs11.KeyType.AES, 256, id=b"3", label="open", store=True, template=out)
        session.generate_key(pkcs11.KeyType.AES, 256, label="nameless", store=True)
    with pytest.raises(KekError, match="2 keys"):
        open_kek(HSM)
    with pytest.raises(KekError, match="2 keys"):
        made.wrap(b"secret", b"here")
    with pytest.raises(KekError, match="read out"):
        open_kek(f"pkcs11:token={TOKEN};object=open")
    with pytest.raises(KekError, match="CKA_ID"):
        open_kek(f"pkcs11:token={TOKEN};object=nameless")


# The server


@pytest.mark.parametrize("uri", ["vault:", "vault:kek", "vault:/kek", "vault:transit/", "vault:transit/k\n"])
def test_a_uri_without_a_key_is_refused(uri: str) -> None:
    with pytest.raises(KekError, match="names no key"):
        create_kek(uri)


@pytest.mark.parametrize("address", ["", "http://vault.example:8200", "ftp://127.0.0.1", "127.0.0.1:8200"])
def test_an_address_that_would_show_keys_on_the_way_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", address)
    with pytest.raises(KekError, match="https://"):
        create_kek(BAO)


def test_a_token_without_a_right_is_refused_and_whoever_may_only_use_makes_nothing(
    bao: Bao, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", bao.token(*USES))
    with pytest.raises(KekError):
        create_kek(BAO)
    bao.ask("POST", "transit/keys/kek", {"type": "aes256-gcm96"})
    kek = open_kek(BAO)
    wrapped = kek.wrap(b"secret", b"here")
    monkeypatch.setenv("VAULT_TOKEN", bao.token(*USES[:2]))
    half = open_kek(BAO)
    with pytest.raises(KekError, match="policy"):
        half.unwrap(wrapped, b"here")
    monkeypatch.setenv("VAULT_TOKEN", "no-token-of-it")
    with pytest.raises(KekError, match="policy"):
        open_kek(BAO)


@pytest.mark.parametrize(
    "body", [{"type": "aes256-gcm96", "exportable": True}, {"type": "rsa-2048"}, {"type": "chacha20-poly1305"}]
)
def test_a_key_that_is_not_what_is_needed_is_refused(bao: Bao, body: dict[str, object]) -> None:
    bao.ask("POST", "transit/keys/kek", body)
    with pytest.raises(KekError, match="is of type"):
        open_kek(BAO)


def test_what_the_server_rotates_by_itself_stays_the_same_kek(bao: Bao) -> None:
    kek, _ = create_kek(BAO)
    wrapped = kek.wrap(b"secret", b"here")
    bao.ask("POST", "transit/keys/kek/rotate")
    again = open_kek(BAO)
    assert again.kek_id == kek.kek_id
    assert again.unwrap(wrapped, b"here") == b"secret"
    assert again.wrap(b"secret", b"here").startswith(b"vault:v2:")


def test_a_server_that_is_gone_is_said_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Bao(tmp_path)
    try:
        for name, value in server.settings(server.token(*USES, *MAKES)).items():
            monkeypatch.setenv(name, value)
        kek, _ = create_kek(BAO)
    finally:
        server.stop()
    with pytest.raises(KekError, match="does not answer"):
        kek.wrap(b"secret", b"here")


# AWS, of which no server runs here: what is asked, and what is made of the answers


def kms(*answers: tuple[str, dict[str, object], dict[str, object] | str]) -> tuple[KmsKek | None, Stubber]:
    client = boto3.client("kms", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="y")
    stub = Stubber(client)
    for call, expected, answer in answers:
        if isinstance(answer, str):
            stub.add_client_error(call, answer, expected_params=expected)
        else:
            stub.add_response(call, answer, expected)
    stub.activate()
    return KmsKek("awskms:alias/keyanon", client), stub


ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"
KEY = {"KeyId": "1234abcd", "Arn": ARN, "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "Enabled": True}
DESCRIBED = ("describe_key", {"KeyId": "alias/keyanon"}, {"KeyMetadata": KEY})


HERE = b'{"keystore":"id","kind":"epoch records","name":"e","type":"keyanon wrapped key v1"}'


def test_aws_is_asked_for_the_key_behind_the_alias_and_told_what_for() -> None:
    context = {"keystore": "id", "kind": "epoch records", "name": "e", "type": "keyanon wrapped key v1"}
    kek, stub = kms(
        DESCRIBED,
        ("encrypt", {"KeyId": ARN, "Plaintext": b"secret", "EncryptionContext": context}, {"CiphertextBlob": b"blob"}),
        ("decrypt", {"KeyId": ARN, "CiphertextBlob": b"blob", "EncryptionContext": context}, {"Plaintext": b"secret"}),
    )
    assert kek is not None
    assert kek.unwrap(kek.wrap(b"secret", HERE), HERE) == b"secret"
    assert kek.kek_id.startswith("awskms-")
    stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidCiphertextException", TamperedError),
        ("IncorrectKeyException", TamperedError),
        ("AccessDeniedException", KekError),
        ("DisabledException", KekError),
        ("ThrottlingException", KekError),
    ],
)
def test_what_aws_refuses_is_told_apart(code: str, kind: type[KeystoreError]) -> None:
    kek, _ = kms(DESCRIBED, ("decrypt", {"KeyId": ARN, "CiphertextBlob": ANY, "EncryptionContext": ANY}, code))
    assert kek is not None
    with pytest.raises(kind):
        kek.unwrap(b"blob", HERE)


@pytest.mark.parametrize(
    "change", [{"Enabled": False}, {"KeyUsage": "SIGN_VERIFY"}, {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}]
)
def test_a_key_of_aws_that_is_not_what_is_needed_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(KekError, match="not an enabled symmetric key"):
        kms(("describe_key", {"KeyId": "alias/keyanon"}, {"KeyMetadata": {**KEY, **change}}))


def test_a_uri_of_aws_without_a_key_is_refused() -> None:
    with pytest.raises(KekError, match="names no key"):
        create_kek("awskms:")
