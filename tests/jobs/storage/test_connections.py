"""What a process asks of S3, and how often: a real server, and one that takes connections and answers nothing."""

import socket
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import MachineError
from jobs.output.row_shards import to_parquet
from jobs.storage import connections
from jobs.storage.connections import arrow_filesystem, client, forget_clients
from jobs.storage.s3 import S3Store
from tests.jobs.seaweed import BUCKET, Seaweed


def test_a_process_has_one_connection_of_each_kind_until_its_settings_are_forgotten(s3: Seaweed) -> None:
    made = arrow_filesystem(BUCKET, None)
    assert arrow_filesystem(BUCKET, None) is made and client(None) is client(None)
    assert client(None) is not client(None, hurried=True)
    forget_clients()
    assert arrow_filesystem(BUCKET, None) is not made


def test_a_request_in_a_hurry_is_given_up_and_sent_once(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HURRIED_READ_SECONDS", 0.2)
    forget_clients()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = S3Store.of(f"s3://{BUCKET}/x", f"http://127.0.0.1:{silent.getsockname()[1]}").in_a_hurry()
        with pytest.raises(MachineError, match="ReadTimeoutError"):
            store.see("y")
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_small_row_shard_is_one_request_and_of_a_large_one_columns_are_read(
    s3: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store.of(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    table = pa.table({"row": [1, 2], "more": [b"x", b"y" * 1000]})
    store.create("small.parquet", to_parquet(table))
    requests = list[str]()

    def sent(model: Any, **_: Any) -> None:
        requests.append(model.name)

    client(None).meta.events.register("before-call.s3", sent)
    with store.open_parquet("small.parquet") as opened:
        assert pq.read_table(opened) == table and isinstance(opened, pa.BufferReader)
    assert requests == ["GetObject"]
    monkeypatch.setattr("jobs.storage.s3.SMALL_BYTES", 20)
    with store.open_parquet("small.parquet") as opened:
        assert pq.read_table(opened, columns=["row"]) == table.select(["row"])
    with pytest.raises(FileNotFoundError):
        store.open_parquet("none.parquet")
