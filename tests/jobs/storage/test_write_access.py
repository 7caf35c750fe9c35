"""Whether a bucket may be written shows without writing there: on a real S3 server, and on small ones that misbehave."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.errors import ConfigError
from jobs.run.plan import check_writable
from jobs.storage.connections import forget_clients
from jobs.storage.s3 import S3Store
from jobs.storage.write_access import may_put
from tests.jobs.answering import QuietHandler, serving
from tests.jobs.seaweed import BUCKET, INBOX, PUTTER_KEY, PUTTER_SECRET, READER_KEY, READER_SECRET, Seaweed


def become(monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    forget_clients()


def test_who_may_put_is_told_from_who_may_not_and_nothing_is_written(
    s3: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, inbox = S3Store(BUCKET, tmp_path.name), S3Store(BUCKET, f"{INBOX}/{tmp_path.name}")
    assert may_put(out, "_keyanon") is True and may_put(inbox, readable=False) is True
    assert check_writable(f"s3://{BUCKET}/{tmp_path.name}") == "may be written"
    become(monkeypatch, READER_KEY, READER_SECRET)
    assert may_put(out) is False and may_put(inbox, readable=False) is False
    with pytest.raises(ConfigError, match="can not be written: the S3 server lets these credentials put nothing there"):
        check_writable(f"s3://{BUCKET}/{tmp_path.name}")
    become(monkeypatch, PUTTER_KEY, PUTTER_SECRET)
    assert may_put(out, readable=False) is False and may_put(inbox, readable=False) is True, "it can not read there"
    become(monkeypatch, PUTTER_KEY, "another-secret")
    with pytest.raises(ConfigError, match="refuses access"):
        check_writable(f"s3://{BUCKET}/{INBOX}", readable=False)
    assert not s3.names(tmp_path.name) and not s3.names(f"{INBOX}/{tmp_path.name}")


@contextmanager
def answering(put: int, calls: list[str]) -> Iterator[str]:
    """A server that answers each put so, whatever it says."""

    class Handler(QuietHandler):
        def answer(self, status: int) -> None:
            calls.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_PUT(self) -> None:
            self.answer(put)

        def do_DELETE(self) -> None:
            self.answer(204)

    with serving(Handler) as url:
        yield url


def test_a_server_that_takes_what_it_must_refuse_is_refused_and_one_that_does_not_tell_is_not_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    become(monkeypatch, "A", "B")
    calls: list[str] = []
    with answering(200, calls) as url, pytest.raises(ConfigError, match="a run needs one that keeps conditions"):
        check_writable(f"s3://{BUCKET}/out", url)
    assert calls == ["PUT", "DELETE"], "what it took is removed"
    with answering(405, calls) as url:
        assert "not checked" in check_writable(f"s3://{BUCKET}/out", url)
    forget_clients()
