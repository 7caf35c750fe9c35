"""A process's connections to S3, made once with the credentials that it finds in its own AWS settings: those of boto3, and those
of pyarrow, which reads columns and many pictures."""

import threading
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pyarrow.fs as pafs

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_s3 import S3Client

REQUESTS_AT_ONCE: Final = 32  # of a process that asks for many objects
ATTEMPTS: Final = 6  # of one request, by botocore, with its own backoff
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
# Of a request in a hurry, which is sent once: all of it is over long before a lease is (`jobs.output.shared_lease`).
HURRIED_CONNECT_SECONDS: Final = 3
HURRIED_READ_SECONDS: Final = 5
AWS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn")

_making = threading.Lock()
_clients: dict[tuple[str | None, bool], "S3Client"] = {}
_filesystems: dict[tuple[str, str | None], pafs.S3FileSystem] = {}


def client(endpoint_url: str | None, hurried: bool = False) -> "S3Client":
    """This process's connection; clients of boto3 may be shared by threads. Raises botocore's errors for unusable settings."""
    with _making:  # a session, unlike its clients, is for one thread at a time
        if (endpoint_url, hurried) not in _clients:
            _clients[endpoint_url, hurried] = _new_client(endpoint_url, hurried)
        return _clients[endpoint_url, hurried]


def _new_client(endpoint_url: str | None, hurried: bool) -> "S3Client":
    from botocore.config import Config

    return _session().client(
        "s3",
        endpoint_url=endpoint_url,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 1 if hurried else ATTEMPTS},
            connect_timeout=HURRIED_CONNECT_SECONDS if hurried else CONNECT_SECONDS,
            read_timeout=HURRIED_READ_SECONDS if hurried else READ_SECONDS,
            max_pool_connections=2 * REQUESTS_AT_ONCE,  # one object at a time is asked for beside them
        ),
    )


@cache
def _session() -> "Session":
    """One for all clients: to read what S3 can do is most of the work of making one."""
    import boto3

    return boto3.Session()


def forget_clients() -> None:
    """Read the AWS settings anew at the next request."""
    _clients.clear()
    _filesystems.clear()
    _session.cache_clear()


def address_of(endpoint_url: str | None) -> str:
    """Host and port of the server that is spoken to, for messages."""
    parts = urlsplit(client(endpoint_url).meta.endpoint_url)
    return parts.netloc.rpartition("@")[2]


def arrow_filesystem(bucket: str, endpoint_url: str | None) -> pafs.S3FileSystem:
    """pyarrow's view of S3, one for each process, which threads share. It finds its credentials itself, and so pickles none;
    those that expire are looked up again by AWS's C++ library, which asks its providers for each request.

    Raises:
        OSError: the bucket's region can not be found.
    """
    if (bucket, endpoint_url) not in _filesystems:
        _filesystems[bucket, endpoint_url] = _new_filesystem(bucket, endpoint_url)
    return _filesystems[bucket, endpoint_url]


def _new_filesystem(bucket: str, endpoint_url: str | None) -> pafs.S3FileSystem:
    address = client(endpoint_url).meta.endpoint_url  # with what AWS_ENDPOINT_URL and profiles say
    host = urlsplit(address).hostname or ""
    if host.endswith(AWS_HOSTS):
        return pafs.S3FileSystem(region=pafs.resolve_s3_region(bucket))
    region = client(endpoint_url).meta.region_name
    return pafs.S3FileSystem(
        endpoint_override=address_of(endpoint_url), scheme=urlsplit(address).scheme, region=region or "us-east-1"
    )
