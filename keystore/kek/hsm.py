"""A KEK in a hardware security module, `pkcs11:token=LABEL;object=LABEL` (RFC 7512): AES-256 that never leaves the token.

What decides where code is loaded from and which PIN is told to it is no part of the URI, which lies in the database: the module
is the file that KEYANON_PKCS11_MODULE names, the PIN the content of the file that KEYANON_PKCS11_PIN_FILE names.
AES-GCM (PKCS #11 v3.0, 2.13), nonce 12 random bytes, the context as associated data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from keystore.errors import KekError
from keystore.kek.refusals import altered

SCHEME: Final = "pkcs11:"
MODULE_VARIABLE: Final = "KEYANON_PKCS11_MODULE"
PIN_VARIABLE: Final = "KEYANON_PKCS11_PIN_FILE"
MAX_PIN_BYTES: Final = 1024
NONCE_BYTES, KEY_BITS, ID_BYTES = 12, 256, 16
_ATTRIBUTES: Final = {"token", "object", "serial"}
_ONE_AT_A_TIME = threading.Lock()  # a login is the whole process's


@dataclass(frozen=True)
class Place:
    """Which key of which token a URI names."""

    token: str | None
    serial: str | None
    label: str

    @staticmethod
    def of(uri: str) -> Place:
        """Raises KekError for a URI that names none, or says more than that."""
        path, query, _ = uri.removeprefix(SCHEME).partition("?")
        if query:
            raise KekError(
                f"KEK pkcs11: takes no query; the module is named by {MODULE_VARIABLE}, a file with the PIN by {PIN_VARIABLE}"
            )
        said = dict(part.partition("=")[::2] for part in path.split(";"))
        if unknown := sorted(set(said) - _ATTRIBUTES):
            raise KekError(f"KEK pkcs11: has the attribute {unknown[0]!r:.40}; give token (or serial) and object")
        named = {name: unquote(value) for name, value in said.items()}
        if not named.get("object") or not (named.get("token") or named.get("serial")):
            raise KekError("KEK pkcs11: names no key; give pkcs11:token=LABEL;object=LABEL")
        return Place(named.get("token"), named.get("serial"), named["object"])


class HsmKek:
    """A KEK in a token. Each call logs in anew, so that a token that was away meanwhile is found again."""

    def __init__(self, uri: str) -> None:
        """Raises KekError: no such token or key, a wrong PIN, or a key that can be read out of the token."""
        self.uri, self._place = uri, Place.of(uri)
        with self._key() as key:
            self.kek_id = _checked_id(key, uri)

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        with self._key() as key:
            sealed: bytes = key.encrypt(secret, **_gcm(nonce, context))
        return nonce + sealed

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        import pkcs11

        with self._key() as key:
            try:
                opened: bytes = key.decrypt(wrapped[NONCE_BYTES:], **_gcm(wrapped[:NONCE_BYTES], context))
                return opened
            except (pkcs11.PKCS11Error, ValueError) as error:
                # Tokens call a wrong tag by the name of any failure: whether this one works is asked.
                nonce = os.urandom(NONCE_BYTES)
                if key.decrypt(key.encrypt(nonce, **_gcm(nonce, context)), **_gcm(nonce, context)) != nonce:
                    raise KekError(f"the token of KEK {self.uri} does not decrypt what it encrypted") from error
                raise altered() from error

    @contextlib.contextmanager
    def _key(self) -> Iterator[Any]:
        with _session(self._place, self.uri) as session:
            yield _find(session, self._place, self.uri)

    def __repr__(self) -> str:
        return f"HsmKek({self.uri!r}, {self.kek_id})"


def open_kek(uri: str) -> HsmKek:
    """Open a KEK that is in a token. Raises KekError."""
    return HsmKek(uri)


def create_kek(uri: str) -> bool:
    """Have the token make the key unless it has one of this label; return whether it was made. Raises KekError."""
    import pkcs11

    place = Place.of(uri)
    with _session(place, uri, rw=True) as session:
        if list(session.get_objects(_template(place))):
            return False
        never = ("EXTRACTABLE", "WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE")
        session.generate_key(
            pkcs11.KeyType.AES,
            KEY_BITS,
            id=os.urandom(ID_BYTES),
            label=place.label,
            store=True,
            template={pkcs11.Attribute.SENSITIVE: True, **{pkcs11.Attribute[name]: False for name in never}},
        )
        return True


@contextlib.contextmanager
def _session(place: Place, uri: str, *, rw: bool = False) -> Iterator[Any]:
    """A session of the token, logged in. Raises KekError for whatever the token refuses."""
    try:
        import pkcs11
    except ImportError as error:
        raise KekError("a KEK in an HSM needs python-pkcs11: pip install 'keyanon[hsm]'") from error
    with _ONE_AT_A_TIME:
        try:
            with _login(place, rw=rw) as session:
                yield session
        except pkcs11.PKCS11Error as error:
            said = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            raise KekError(
                f"the token of KEK {uri} can not be used ({said}); check that it is there, its label, and the PIN in the file "
                f"that {PIN_VARIABLE} names"
            ) from error


def _login(place: Place, *, rw: bool) -> Any:
    import pkcs11

    library = pkcs11.lib(_setting(MODULE_VARIABLE))
    serial = None if place.serial is None else place.serial.encode()
    try:
        return library.get_token(token_label=place.token, token_serial=serial).open(user_pin=_pin(), rw=rw)
    except (pkcs11.GeneralError, pkcs11.DeviceError, pkcs11.DeviceRemoved, pkcs11.TokenNotPresent):
        library.reinitialize()  # the token was away; a wrong PIN, of which tokens count how many there were, is not tried again
        return library.get_token(token_label=place.token, token_serial=serial).open(user_pin=_pin(), rw=rw)


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise KekError(
            f"a KEK in an HSM needs {MODULE_VARIABLE} (the token's PKCS #11 library) and {PIN_VARIABLE} (a file with its PIN); "
            f"{name} is not set"
        )
    return value


def _pin() -> str:
    path = Path(_setting(PIN_VARIABLE))
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KekError(f"the file {path} with the token's PIN is open to others; run: chmod 600 {path}")
            return stream.read(MAX_PIN_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KekError(f"the file {path} with the token's PIN can not be read ({type(error).__name__})") from None


def _template(place: Place) -> dict[Any, Any]:
    import pkcs11

    return {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.LABEL: place.label}


def _find(session: Any, place: Place, uri: str) -> Any:
    found = list(session.get_objects(_template(place)))
    if len(found) != 1:
        raise KekError(
            f"the token of KEK {uri} has {len(found)} keys of that label, and one is needed; without the right one nothing opens"
        )
    return found[0]


def _checked_id(key: Any, uri: str) -> str:
    import pkcs11

    attribute = pkcs11.Attribute
    if not key[attribute.SENSITIVE] or key[attribute.EXTRACTABLE] or key.key_type != pkcs11.KeyType.AES:
        raise KekError(
            f"the key of KEK {uri} is no AES key, or can be read out of its token; let keyanon make one, or make one that is "
            "sensitive and not extractable"
        )
    if not key[attribute.ID]:
        raise KekError(f"the key of KEK {uri} has no id (CKA_ID); give it one of its own")
    return f"pkcs11-{hashlib.sha256(key[attribute.ID]).hexdigest()[: 2 * ID_BYTES]}"


def _gcm(nonce: bytes, context: bytes) -> dict[str, Any]:
    import pkcs11

    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": pkcs11.GCMParams(nonce, aad=context)}
