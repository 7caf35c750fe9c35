"""What is made of a server's answers that no healthy server gives: a server of our own that gives them."""

import contextlib
import errno
from collections.abc import Iterator

import pytest

from jobs.errors import MachineError
from jobs.faults import FaultKind, kind_of_writing
from jobs.storage import connections
from jobs.storage.s3 import S3Store
from tests.jobs.answering import QuietHandler, serving
from tests.jobs.seaweed import BUCKET, KEY, SECRET


@contextlib.contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """The address of a server that answers everything so."""

    class Handler(QuietHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield url


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One try for each request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(connections, "ATTEMPTS", 1)
    connections.forget_clients()
    yield
    connections.forget_clients()


@pytest.mark.parametrize(
    ("status", "code"), [(429, "TooManyRequests"), (400, "Throttling"), (503, "SlowDown"), (500, "InternalError")]
)
def test_a_server_that_is_busy_or_ill_is_a_fault_of_the_machine(status: int, code: str) -> None:
    with answering(status, code) as url, pytest.raises(MachineError, match=code):
        S3Store.of(f"s3://{BUCKET}/x", url).create("y", b"")


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidRequest")])
def test_what_a_server_can_not_do_is_not_asked_of_it_again(status: int, code: str) -> None:
    with answering(status, code) as url, pytest.raises(OSError, match=code) as raised:
        S3Store.of(f"s3://{BUCKET}/x", url).create("y", b"")
    assert raised.value.errno == errno.EPROTO and kind_of_writing(raised.value) is FaultKind.RUN
