"""A prefix of a bucket, on AWS or any server with signatures and conditional writes.

An object is made by `If-None-Match: *`, replaced or removed by `If-Match` with the ETag last seen (Amazon S3 User Guide,
"Conditional requests"): so none is ever written over, whoever else is at work. A request whose answer was lost is sent again by
botocore and then meets its own effect: an object with just these bytes is taken as made by us.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeVar, cast

import pyarrow as pa

from jobs.errors import MachineError
from jobs.storage.connections import REQUESTS_AT_ONCE, address_of, arrow_filesystem, client
from jobs.storage.multipart import Upload
from jobs.storage.packed import pack, unpack
from jobs.storage.place import S3, split_uri
from jobs.storage.store import ChangedError, Copy, Seen, Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SMALL_BYTES: Final = 512 * 1024  # of a row shard that is read whole: one request, where pyarrow takes three or more
DELETED_AT_ONCE: Final = 1000  # objects; the limit of DeleteObjects

_T = TypeVar("_T")
_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
# 409: another conditional write of the same name is under way; for us as good as lost.
_CHANGED: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_REFUSED: Final = frozenset({"AccessDenied", "403", "AllAccessDisabled"})
# The server has enough to do, and says so with other numbers than 5xx.
_BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "TooManyRequests", "Throttling", "ThrottlingException"})
_NO_CREDENTIALS: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_PACK: Final = "pack"  # the object that holds what is staged of a block


class CredentialsError(PermissionError):
    """There are no credentials, or the server does not take them, whatever is asked for."""


@dataclass(frozen=True)
class S3Store(Store):
    """Holds names only: each process connects with the credentials that it finds in its own AWS settings. hurried: of a request
    that is not answered within seconds more is expected of the next one than of waiting."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    hurried: bool = False

    shared = True

    @classmethod
    def of(cls, uri: str, endpoint_url: str | None = None) -> Self:
        """The store of `s3://bucket/prefix`. Raises ConfigError."""
        return cls(*split_uri(uri), endpoint_url)

    @property
    def root(self) -> str:  # type: ignore[override]  # derived from the two parts
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")

    def __str__(self) -> str:
        return self.root

    def in_a_hurry(self) -> Self:
        return replace(self, hurried=True)

    @property
    def client(self) -> "S3Client":
        """This process's connection."""
        return client(self.endpoint_url, self.hurried)

    def check(self) -> None:
        self.call("", lambda: self.client.head_bucket(Bucket=self.bucket))

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        return self._get(name, max_bytes).content

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        return [None if seen is None else seen.content for seen in _at_once(self.see, names)]

    def see(self, name: str) -> Seen | None:
        try:
            return self._get(name)
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> str:
        return self._put(name, content, {"IfNoneMatch": "*"})

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        upload = Upload(self, name)
        try:
            yield cast("BinaryIO", upload)
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def replace(self, name: str, content: bytes, version: str | None) -> str:
        if version is None:
            try:
                return self.create(name, content)
            except FileExistsError as error:
                raise ChangedError(*error.args) from error
        return self._put(name, content, {"IfMatch": version})

    def delete(self, name: str, version: str | None = None) -> None:
        condition: Any = {} if version is None else {"IfMatch": version}
        try:
            self.call(
                name,
                lambda: self.client.delete_object(Bucket=self.bucket, Key=self.key(name), **condition),
            )
        except FileNotFoundError:
            return
        except ChangedError:
            if self._version(name) is not None:  # else it is gone: by an answer that was lost, or by another's hand
                raise

    def delete_all(self, names: Sequence[str]) -> None:
        self._delete_keys([self.key(name) for name in names])

    def children(self, folder: str, suffix: str = "", after: str = "") -> Iterator[str]:
        prefix = self._folder(folder)
        for name, _ in self._list(prefix, after=prefix + after if after else "", Delimiter="/"):
            if name.endswith(suffix):
                yield name.removeprefix(prefix)

    def sizes(self, folder: str, after: str = "") -> Iterator[tuple[str, int]]:
        for key, size in self._list(self._folder(folder), after=self.key(after) if after else ""):
            yield key.removeprefix(self._folder("")), size

    def existing(self, names: Iterable[str]) -> dict[str, str | None]:
        wanted = list(names)
        found = zip(wanted, _at_once(self._version, wanted), strict=True)
        return {name: version for name, version in found if version is not None}

    def open_parquet(self, name: str) -> Any:
        def end() -> tuple[bytes, int]:
            found = self.client.get_object(Bucket=self.bucket, Key=self.key(name), Range=f"bytes=-{SMALL_BYTES}")
            size = found.get("ContentRange", "").rpartition("/")[2] or found["ContentLength"]
            return found["Body"].read(), int(size)

        content, size = self.call(name, end)
        if len(content) == size:
            return pa.BufferReader(content)
        return arrow_filesystem(self.bucket, self.endpoint_url).open_input_file(f"{self.bucket}/{self.key(name)}")

    def make_folder(self, folder: str) -> None:
        pass  # names with a slash are no folders

    def make_staging(self, folder: str) -> None:
        pass

    def fill(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        if entries := list(files):
            self.create(f"{folder}/{_PACK}", pack(entries))

    def filled(self, folder: str, names: Sequence[str]) -> list[bytes | None]:
        packed = self.see(f"{folder}/{_PACK}") if names else None
        found = {} if packed is None else unpack(packed.content)
        return [found.get(name) for name in names]

    def publish(self, copies: Sequence[Copy]) -> None:
        # From here and not by CopyObject: few servers but Amazon's make that conditional.
        _at_once(lambda copy: self.create(copy.final, copy.content), copies)

    def remove_folders(self, parent: str, keep: str | None = None) -> None:
        kept = None if keep is None else self._folder(keep)
        keys = (key for key, _ in self._list(self._folder(parent)))
        self._delete_keys([key for key in keys if kept is None or not key.startswith(kept)])

    def remove_folder(self, folder: str) -> None:
        self._delete_keys([key for key, _ in self._list(self._folder(folder))])

    def key(self, name: str) -> str:
        """Of an object, in the bucket."""
        return "/".join(part for part in (self.prefix, name) if part)

    def _folder(self, name: str) -> str:
        key = self.key(name)
        return f"{key}/" if key else ""

    def _version(self, name: str) -> str | None:
        try:
            found = self.call(name, lambda: self.client.head_object(Bucket=self.bucket, Key=self.key(name)))
        except FileNotFoundError:
            return None
        return found["ETag"]

    def _get(self, name: str, max_bytes: int | None = None) -> Seen:
        def get() -> Seen:
            found = self.client.get_object(Bucket=self.bucket, Key=self.key(name))
            if max_bytes is not None and found["ContentLength"] > max_bytes:
                found["Body"].close()
                raise OSError(errno.EFBIG, f"{found['ContentLength']} bytes are more than {max_bytes}", name)
            return Seen(found["Body"].read(), found["ETag"])

        return self.call(name, get)

    def _put(self, name: str, content: bytes, condition: Any) -> str:
        def put() -> str:
            return self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=content, **condition)["ETag"]

        try:
            return self.call(name, put)
        except FileExistsError:
            there = self.see(name)
            if there is not None and there.content == content:
                return there.version
            raise

    def _list(self, prefix: str, after: str = "", **more: Any) -> Iterator[tuple[str, int]]:
        def pages() -> Iterator[Any]:
            listing = self.client.get_paginator("list_objects_v2")
            return iter(listing.paginate(Bucket=self.bucket, Prefix=prefix, StartAfter=after, **more))

        found = self.call(prefix, pages)
        while (page := self.call(prefix, lambda: next(found, None))) is not None:
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"]

    def _delete_keys(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), DELETED_AT_ONCE):
            part: Any = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
            answer = self.call(
                part[0]["Key"],
                lambda part=part: self.client.delete_objects(  # type: ignore[misc]
                    Bucket=self.bucket, Delete={"Objects": part, "Quiet": True}
                ),
            )
            for problem in answer.get("Errors", []):
                raise OSError(errno.EACCES, f"it can not be removed ({problem.get('Code')})", problem.get("Key"))

    def call(self, name: str, request: Callable[[], _T]) -> _T:
        """Send one request; what goes wrong as the errors that `Store` names. No message of the server is repeated."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            IncompleteReadError,
            NoCredentialsError,
        )

        try:
            return request()
        except ClientError as error:
            raise self._refused(name, error) from error
        except (
            ConnectionError,
            HTTPClientError,
            IncompleteReadError,
        ) as error:  # not reached, or cut off, again and again
            raise MachineError(
                f"{self.root}: the S3 server {address_of(self.endpoint_url)} can not be reached "
                f"({type(error).__name__}); see to the network and the endpoint URL, then run the same command again"
            ) from error
        except NoCredentialsError as error:
            raise CredentialsError(
                errno.EACCES,
                "no AWS credentials were found; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role",
                self.root,
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise OSError(
                errno.EINVAL, f"the AWS settings can not be used ({type(error).__name__})", self.root
            ) from error

    def _refused(self, name: str, error: Any) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket" or (code in _ABSENT and not name):
            return OSError(errno.ENXIO, f"there is no bucket {self.bucket!r}; make it, or mend its name", self.root)
        if code in _ABSENT:
            return FileNotFoundError(errno.ENOENT, "there is no such object", f"{self.root}/{name}")
        if code in _CHANGED:
            return ChangedError(errno.EEXIST, "another process wrote it", f"{self.root}/{name}")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # not even of the object's end
            return OSError(errno.EINVAL, "the object is empty", f"{self.root}/{name}")
        if code in _REFUSED or code in _NO_CREDENTIALS or status in (401, 403):
            kind = CredentialsError if code in _NO_CREDENTIALS else PermissionError
            return kind(
                errno.EACCES,
                f"the S3 server refuses access ({code}); check the AWS credentials and what they may do with this prefix",
                self.root,
            )
        if (
            status == HTTPStatus.TOO_MANY_REQUESTS
            or code in _BUSY
            or (status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED)
        ):
            return MachineError(
                f"{self.root}: the S3 server fails ({code}); run the same command again when it is well"
            )
        return OSError(errno.EPROTO, f"the S3 server refuses a request ({code})", f"{self.root}/{name}")


def _renew_senders() -> None:
    """One pool for the process: however many threads ask for many objects, so many requests are under way, first come, first
    served."""
    global _senders
    _senders = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="keyanon-s3")


_senders: ThreadPoolExecutor
_renew_senders()
os.register_at_fork(after_in_child=_renew_senders)  # a child has none of its threads


def _at_once(act: Callable[[Any], _T], things: Sequence[Any]) -> list[_T]:
    """Results in order, of several requests at a time. Raises the first error when none is under way any more."""
    if len(things) < 2:
        return [act(thing) for thing in things]
    begun = [_senders.submit(act, thing) for thing in things]
    try:
        return [future.result() for future in begun]
    finally:
        for future in begun:
            future.cancel()
        wait(begun)
