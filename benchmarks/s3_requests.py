"""How many requests a run sends to its buckets for each picture and for each block, by what they are for.

    python benchmarks/s3_requests.py [--pictures 128] [--ms 20]

A real S3 server on this machine holds the source, the output and the inbox, from which an ingest of its own takes the keys in;
what stands before the server counts what the run's processes send, and not the ingest. The computing sleeps, as in
benchmarks/scaling.py; all else is a run's own. What does not grow with the pictures is in the sums too, and weighs less in a
larger run: renewals of the lease, and looks for complete blocks, which go by time.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer
from scaling import astronaut_jpeg, sleeping

import jobs.run.anonymize
from jobs.config import AnonymizeConfig
from jobs.run.cluster import ray_cluster
from keystore.auditor import Auditor
from keystore.embedded import Keystore

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.jobs.answering import QuietHandler, serving
from tests.jobs.seaweed import ADMIN_KEY, ADMIN_SECRET, BUCKET, Seaweed

# Of a request's key, or of what it lists: what it is for. The first that is found counts.
KINDS = {
    r"^photos/": "source",
    r"^inbox/.*\.keys$": "key shard",
    r"^inbox/": "receipts",
    r"/attempts/.*\.parquet$": "staged row shard",
    r"/attempts/[^/]*/[^/]+/": "what is staged beside it",
    r"/attempts/": "looks for staged blocks",
    r"/_keyanon/lease$": "lease",
    r"/_keyanon/segments/": "segment",
    r"/_keyanon/": "other of _keyanon",
    r"^out/rows/": "row shard",
    r"^out/(images|sidecars)/": "picture or sidecar",
}
HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}  # headers that are made anew


def main(
    pictures: Annotated[int, typer.Option(help="How many.")] = 128,
    ms: Annotated[float, typer.Option(help="Milliseconds that an actor sleeps for a picture.")] = 20.0,
) -> None:
    """Measure and print."""
    encoded = astronaut_jpeg()
    with tempfile.TemporaryDirectory() as scratch:
        (server_root := Path(scratch) / "server").mkdir()
        server = Seaweed(server_root)
        os.environ |= {**server.environment, "AWS_ACCESS_KEY_ID": ADMIN_KEY, "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET}
        server.start()
        try:
            for number in range(pictures):
                server.put(f"photos/{number:06d}.jpg", encoded)
            with Keystore.create(Path(scratch) / "keystore") as keystore:
                (Path(scratch) / "ingest.key").write_text(Auditor(keystore.path).ingest_key().text())
            config = AnonymizeConfig.model_validate(
                {
                    "photos": f"s3://{BUCKET}/photos",
                    "output": f"s3://{BUCKET}/out",
                    "ingest_key": Path(scratch) / "ingest.key",
                    "inbox": f"s3://{BUCKET}/inbox",
                    "dataset": "benchmark",
                    "anonymizer_actors": 1,
                    "device": "cpu",
                }
            )
            sent = Counter[str]()
            with _following(server, Path(scratch) / "keystore"), _counted(server, sent) as address:
                os.environ["AWS_ENDPOINT_URL"] = address
                with sleeping(ms / 1000), ray_cluster(2):
                    report = jobs.run.anonymize.run_anonymize(config)
            blocks = sum(name.endswith(".parquet") for name in server.names("out/rows"))
        finally:
            server.stop()
    typer.echo(f"{report.rows} pictures in {blocks} blocks, statuses {dict(report.statuses)}; requests:")
    typer.echo(f"  {'':40s} {'all':>8s} {'a picture':>10s} {'a block':>10s}")
    for kind, count in sorted(sent.items(), key=lambda one: (-one[1], one[0])):
        typer.echo(f"  {kind:40s} {count:8d} {count / pictures:10.3f} {count / blocks:10.3f}")


@contextmanager
def _following(server: Seaweed, keystore: Path) -> Iterator[None]:
    """An ingest takes the keys in meanwhile."""
    command = [sys.executable, "-m", "jobs.commands.cli", "keystore", "ingest", str(keystore), "--follow"]
    command += ["--accept", "benchmark", "--inbox", f"s3://{BUCKET}/inbox", "--endpoint-url", server.url]
    ingest = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        ingest.send_signal(signal.SIGINT)
        ingest.wait()


@contextmanager
def _counted(server: Seaweed, sent: Counter[str]) -> Iterator[str]:
    """The address of what sends on to the server and counts."""
    host, counting, mine = urlsplit(server.url).netloc, threading.Lock(), threading.local()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not hasattr(mine, "to"):
                mine.to = HTTPConnection(host)
            mine.to.request(self.command, self.path, body, dict(self.headers))
            answer = mine.to.getresponse()
            content = answer.read()
            with counting:
                sent[_kind(self.command, self.path)] += 1
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    with serving(Handler) as address:
        yield address


def _kind(method: str, path: str) -> str:
    address = urlsplit(path)
    key = unquote(address.path).removeprefix(f"/{BUCKET}").lstrip("/")
    if listed := re.search(r"(?:^|&)prefix=([^&]*)", address.query):
        method, key = "LIST", unquote(listed[1])
    if method == "POST" and "delete" in address.query:
        return "DELETE several"
    found = (kind for pattern, kind in KINDS.items() if re.search(pattern, key))
    return f"{method} {next(found, 'other')}"


if __name__ == "__main__":
    typer.run(main)
