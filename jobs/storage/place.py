"""Names of places: local paths, and URIs of S3. Nothing here touches a disk or a network.

Credentials never stand in a name: names are printed, logged and kept in manifests. They come from the usual AWS settings.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from jobs.errors import ConfigError
from keystore.service.loopback import is_loopback

S3: Final = "s3://"
Place = str | Path
"""A local path, or the URI of a place in a bucket: `s3://bucket/prefix`, without a slash at its end; of an inbox and of an ingest
key, an address of a served keystore too."""

# Amazon S3 User Guide, "General purpose bucket naming rules"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PIN: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")
_SECRET_WORDS: Final = ("key", "secret", "token", "password", "credential", "sig")
_NO_CREDENTIALS: Final = (
    "credentials do not belong in a URI; give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the role "
    "of the machine"
)


def as_place(value: str | os.PathLike[str]) -> Place:
    """A place to write. Raises ConfigError for a URI that is not `s3://bucket/prefix`, or carries more than that."""
    text = os.fspath(value)
    if text.lower().startswith("s3:"):
        bucket, prefix = split_uri(text)
        return f"{S3}{bucket}/{prefix}" if prefix else f"{S3}{bucket}"
    if is_uri(text):
        refuse_credentials(text)
        raise ConfigError(f"{text} can not be written; give a local path or s3://bucket/prefix")
    return Path(text)


def as_inbox(value: str | os.PathLike[str]) -> Place:
    """Where sealed keys are left: a place to write, or the `https://` address of a served keystore. Raises ConfigError."""
    text = os.fspath(value)
    if not is_service(text):
        return as_place(text)
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment or not parts.hostname:
        raise ConfigError("the inbox of a served keystore is https://host[:port]; its token is read from --token-file")
    return text.rstrip("/")


def as_ingest_key(value: str | os.PathLike[str]) -> Place:
    """Where the public keys of a keystore are: a file, or `https://...` or `s3://bucket/key` with a pin, `#sha256=HEX`.

    Raises ConfigError, which repeats nothing of what may be a secret.
    """
    text = os.fspath(value)
    if not is_service(text) and not text.lower().startswith("s3:"):
        if is_uri(text):
            refuse_credentials(text)
            raise ConfigError(f"{text} is read by nobody here; give a file, https://... or s3://bucket/key")
        return Path(text)
    address, _, fragment = text.partition("#")
    if is_service(address):
        parts = urlsplit(address)
        host = parts.hostname
        if "@" in parts.netloc or parts.query or not host:
            raise ConfigError(
                "an ingest key is public: its address is https://host[:port]/path, with nothing secret in it"
            )
        if parts.scheme != "https" and not is_loopback(host):
            raise ConfigError(
                f"the ingest key at {address} is asked for by https://; plain http is for this machine only"
            )
    else:
        bucket, key = split_uri(address)
        if not key:
            raise ConfigError(f"{address} is a bucket; give the ingest key in it: s3://bucket/key")
        address = f"{S3}{bucket}/{key}"
    pin = _PIN.fullmatch(fragment)
    if pin is None:
        raise ConfigError(
            f"{address} needs a pin, or whoever answers there chooses who can open every face: give ADDRESS#sha256=HEX, as "
            "`keyanon keystore ingest-key KEYSTORE --url ADDRESS` prints it where the keystore is"
        )
    return f"{address}#sha256={pin[1].lower()}"


def split_pin(ingest_key: str) -> tuple[str, str]:
    """The address and the SHA-256 of what `as_ingest_key` returned for one with a pin."""
    address, _, pin = ingest_key.partition("#sha256=")
    return address, pin


def is_service(place: Place) -> bool:
    """Whether an inbox, or an ingest key, is asked for by HTTP."""
    return isinstance(place, str) and place.lower().startswith(("https://", "http://"))


def check_source(text: str) -> str:
    """A place to read: a local path, or a URI that pyarrow knows. Raises ConfigError for one that carries a secret."""
    if text.lower().startswith("s3:"):
        return str(as_place(text))
    if is_uri(text):
        refuse_credentials(text)
    return text


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of an S3 URI; the prefix has no slash at its ends and may be "".

    Raises:
        ConfigError: it has another form. The message repeats nothing of what may be a secret.
    """
    host, _, prefix = uri.removeprefix(S3).partition("/")
    malformed = not uri.startswith(S3) or _BUCKET.fullmatch(host) is None
    if "?" in uri or (malformed and "@" in uri):  # a secret may hold slashes
        raise ConfigError(f"{_NO_CREDENTIALS}, and a server's address by --endpoint-url")
    if malformed:
        raise ConfigError(f"{uri!r:.200} is no place in S3; give s3://bucket/prefix")
    prefix = prefix.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise ConfigError(f"{uri!r:.200} has an empty part, '.' or '..' in its prefix; give s3://bucket/prefix")
    return host, prefix


def is_uri(text: str) -> bool:
    """True for what has a scheme and `://`."""
    return "://" in text and bool(urlsplit(text).scheme)


def refuse_credentials(uri: str) -> None:
    """Raise ConfigError, which repeats none of it, for a URI of any scheme that seems to hold a secret."""
    parts = urlsplit(uri)
    named = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if ":" in parts.netloc.rpartition("@")[0] or any(word in name for name in named for word in _SECRET_WORDS):
        raise ConfigError(_NO_CREDENTIALS)


def holds(outer: Place, inner: Place) -> bool:
    """True where `inner` is `outer` or lies in it."""
    if isinstance(outer, Path) and isinstance(inner, Path):
        outer, inner = outer.resolve(), inner.resolve()
        return outer == inner or outer in inner.parents
    if isinstance(outer, Path) or isinstance(inner, Path):
        return False
    return f"{inner}/".startswith(f"{outer}/")


def check_endpoint(url: str) -> str:
    """The address of an S3 server. Raises ConfigError unless it is `http(s)://host[:port]` without credentials."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(_NO_CREDENTIALS)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("the endpoint URL must be http(s)://host[:port], as in the aws command")
    return url.rstrip("/")
