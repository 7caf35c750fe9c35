"""Asking witnesses elsewhere: after each checkpoint the service has it signed by those that run under other accounts.

    witness/elsewhere        URL LF verifier key LF, of each witness
    witness/cosigned-KEYID   the last checkpoint that the witness with this key signed, with that signature

A witness that saw another log, or a longer one, is believed: nothing is done on a keystore that was rolled back. One that can not
be reached is a warning, for the log is whole without it; the next checkpoint that it sees covers all before it.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from keystore.audit.checkpoint import Checkpoint, open_checkpoint, parse_verifier_key
from keystore.audit.cosignature import check_cosignature, parse_witness_vkey
from keystore.errors import AuditError, StorageError
from keystore.storage import durable

ELSEWHERE_NAME = "elsewhere"
MAX_WITNESSES = 8
ASKED_SECONDS = 10.0
MAX_ANSWER_BYTES = 8192
_HERE = ("127.0.0.1", "::1", "localhost")
_LOGGER = logging.getLogger(__name__)


class WitnessAheadError(AuditError):
    """The witness signed another checkpoint of this size, or a larger one."""

    def __init__(self, url: str, seen: int, here: int) -> None:
        super().__init__(
            f"witness {url} saw {seen} entries of this log, which the {here} that are here do not lead to: it was rolled back or "
            "written anew. Restore the newest database; nothing is done before"
        )
        self.seen = seen


@dataclass(frozen=True)
class WitnessElsewhere:
    """A witness, and the directory that says what it signed last. Raises StorageError, AuditError where it can not be one."""

    directory: Path
    url: str
    vkey: str

    def __post_init__(self) -> None:
        parse_witness_vkey(self.vkey)
        object.__setattr__(self, "url", checked_url(self.url))

    @property
    def _cosigned(self) -> Path:
        return self.directory / f"cosigned-{self.vkey.split('+')[1]}"

    def ask(self, note: str, vkey: str, prove: Callable[[Checkpoint, int], list[bytes]]) -> bool:
        """Have a checkpoint signed; return whether it was. `prove` shows that it extends that of an older size.

        Raises WitnessAheadError; AuditError: the witness does not sign it, or another answers in its name.
        """
        new = open_checkpoint(note, vkey)
        try:
            with httpx2.Client(timeout=ASKED_SECONDS) as http:
                old_size = self._last_size(vkey)
                for _ in range(2):
                    proof = prove(new, old_size) if 0 < old_size <= new.size else []
                    lines = "".join(f"{base64.b64encode(one).decode()}\n" for one in proof)
                    body = f"old {min(old_size, new.size)}\n{lines}\n{note}"
                    answer = http.post(f"{self.url}/add-checkpoint", content=body.encode())
                    said = answer.text[:MAX_ANSWER_BYTES]
                    if answer.status_code != 409:
                        break
                    old_size = int(said)
                    if old_size > new.size:
                        break
            if answer.status_code == 409 and old_size >= new.size:
                raise WitnessAheadError(self.url, old_size, new.size)
        except (httpx2.HTTPError, ValueError) as error:
            _LOGGER.warning(
                "witness %s was not reached (%s): it signs a later checkpoint", self.url, type(error).__name__
            )
            return False
        if answer.status_code in (403, 404, 422):
            raise AuditError(
                f"witness {self.url} does not sign checkpoint {new.size} ({answer.status_code}: {said.strip()})"
            )
        if answer.status_code != 200:
            _LOGGER.warning("witness %s answered %d: it signs a later checkpoint", self.url, answer.status_code)
            return False
        check_cosignature(new, said, self.vkey)
        try:
            durable.replace(self._cosigned, (note + said).encode())
        except OSError as error:
            raise StorageError(f"{self._cosigned} can not be written ({error.strerror})") from error
        return True

    def _last_size(self, vkey: str) -> int:
        try:
            return open_checkpoint(durable.read_regular(self._cosigned, MAX_ANSWER_BYTES).decode(), vkey).size
        except (OSError, UnicodeDecodeError, AuditError):
            return 0  # the witness says what it has


def asked_witnesses(directory: Path) -> list[WitnessElsewhere]:
    """Return the witnesses that a keystore asks, in the order they were named. Raises StorageError, AuditError."""
    path = directory / ELSEWHERE_NAME
    try:
        lines = durable.read_regular(path, MAX_WITNESSES * MAX_ANSWER_BYTES).decode().splitlines()
        return [WitnessElsewhere(directory, url, vkey) for url, vkey in zip(lines[::2], lines[1::2], strict=True)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} does not name witnesses ({type(error).__name__}); name them again") from error


def remember_witnesses(directory: Path, witnesses: Sequence[WitnessElsewhere]) -> None:
    """Let a keystore ask these from now on. Raises StorageError."""
    if len(witnesses) > MAX_WITNESSES:
        raise StorageError(f"a keystore asks {MAX_WITNESSES} witnesses at most; drop one first")
    path = directory / ELSEWHERE_NAME
    try:
        durable.replace(path, "".join(f"{one.url}\n{one.vkey}\n" for one in witnesses).encode())
    except OSError as error:
        raise StorageError(f"{path} can not be written ({error.strerror})") from error


def checked_url(url: str) -> str:
    """Return where a witness listens, without a last slash. Raises StorageError: it can not be asked safely."""
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url  # a line of a file; and urlsplit overlooks line ends
    if not plain or parts.username or parts.password or parts.scheme not in ("https", "http") or not parts.hostname:
        raise StorageError("a witness is named by https://HOST:PORT, without a name or a password in it")
    if parts.scheme == "http" and parts.hostname not in _HERE:
        raise StorageError(f"witness {parts.hostname} is not this machine: name it by https")
    return url.rstrip("/")


def witnessed_checkpoint(url: str, witness_vkey: str, vkey: str) -> str:
    """Return the last checkpoint of the log of `vkey` that a witness signed, both signatures checked.

    Raises StorageError: the witness can not be asked; AuditError: it does not know the log, or another answers in its name.
    """
    place, (origin, _) = checked_url(url), parse_verifier_key(vkey)
    try:
        answer = httpx2.get(f"{place}/checkpoint", params={"origin": origin}, timeout=ASKED_SECONDS)
    except httpx2.HTTPError as error:
        raise StorageError(f"witness {place} was not reached ({type(error).__name__}); try again") from error
    if answer.status_code != 200:
        raise AuditError(f"witness {place} signed no checkpoint of log {origin} ({answer.status_code})")
    note = answer.text[:MAX_ANSWER_BYTES]
    check_cosignature(open_checkpoint(note, vkey), note.rpartition("\n\n")[2], witness_vkey)
    return note


def witnessed_checkpoints(witnesses: Sequence[tuple[str, str]], vkey: str, spare: int) -> list[str]:
    """Return the last checkpoints of a log that witnesses (URL, verifier key) signed; `spare` of them may be out of reach.

    Raises StorageError: more are; AuditError: the same witness is named twice, or see `witnessed_checkpoint`.
    """
    if len({parse_witness_vkey(key)[1].public_bytes_raw() for _, key in witnesses}) < len(witnesses):
        raise AuditError("one witness is named twice: it counts once")
    found: list[str] = []
    for url, key in witnesses:
        try:
            found.append(witnessed_checkpoint(url, key, vkey))
        except StorageError as error:
            spare -= 1
            if spare < 0:
                raise
            _LOGGER.warning("%s", error)
    return found
