"""Where a witness may be asked: over TLS, or on this machine; and never with a password in its name."""

from pathlib import Path

import pytest

from keystore.audit.elsewhere import ELSEWHERE_NAME, asked_witnesses, checked_url
from keystore.errors import KeystoreError, StorageError


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "w.example",
        "//w.example",
        "http://w.example",
        "http://127.0.0.2",
        "http://localhost.example",
        "ftp://localhost",
        "file:///etc/passwd",
        "https://name@w.example",
        "https://name:word@w.example",
        "https://:word@w.example",
        "https://w.example\n",
        "https://w .example",
        "https://wé.example",
    ],
)
def test_a_witness_that_can_not_be_asked_safely_is_refused(url: str) -> None:
    with pytest.raises(StorageError):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://w.example", "https://w.example:8443/", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"],
)
def test_a_witness_over_tls_or_on_this_machine_is_asked(url: str) -> None:
    assert checked_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "content", [b"https://w.example\n", b"\xff\n\n", b"https://w.example\nno key\n", b"ftp://w\nw+1+AA==\n"]
)
def test_a_file_of_witnesses_that_names_none_is_no_file_without_witnesses(tmp_path: Path, content: bytes) -> None:
    assert asked_witnesses(tmp_path) == []
    (tmp_path / ELSEWHERE_NAME).write_bytes(content)
    with pytest.raises(KeystoreError):
        asked_witnesses(tmp_path)
