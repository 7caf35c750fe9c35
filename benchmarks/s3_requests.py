"""How many requests a run sends to its buckets for each picture, as the server counts them.

    python benchmarks/s3_requests.py [--pictures 128] [--ms 20]

A real S3 server on this machine holds the source and the output. The computing sleeps, as in benchmarks/scaling.py; all else is
a run's own. What does not grow with the pictures is in the sum too, and weighs less in a larger run: the lease, and looks for
complete blocks, which go by time.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import typer
from scaling import astronaut_jpeg, sleeping

import jobs.run.anonymize
from jobs.config import AnonymizeConfig
from jobs.run.cluster import ray_cluster

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.jobs.seaweed import ADMIN_KEY, ADMIN_SECRET, BUCKET, Seaweed

COUNTED = re.compile(r"^SeaweedFS_s3_request_total\{(?P<labels>[^}]*)\} (?P<count>\d+)", re.MULTILINE)


def main(
    pictures: Annotated[int, typer.Option(help="How many.")] = 128,
    ms: Annotated[float, typer.Option(help="Milliseconds that an actor sleeps for a picture.")] = 20.0,
) -> None:
    """Measure and print."""
    encoded = astronaut_jpeg()
    with tempfile.TemporaryDirectory() as scratch:
        server = Seaweed(Path(scratch))
        os.environ |= {**server.environment, "AWS_ACCESS_KEY_ID": ADMIN_KEY, "AWS_SECRET_ACCESS_KEY": ADMIN_SECRET}
        server.start()
        try:
            for number in range(pictures):
                server.put(f"photos/{number:06d}.jpg", encoded)
            config = AnonymizeConfig.model_validate(
                {
                    "photos": f"s3://{BUCKET}/photos",
                    "output": f"s3://{BUCKET}/out",
                    "keystore": Path(scratch) / "keystore",
                    "anonymizer_actors": 1,
                    "device": "cpu",
                }
            )
            before = _requests(server)
            with sleeping(ms / 1000), ray_cluster(2):
                report = jobs.run.anonymize.run_anonymize(config)
            sent = _requests(server) - before
        finally:
            server.stop()
    typer.echo(f"{report.rows} pictures, statuses {dict(report.statuses)}; requests a picture:")
    for kind, count in sent.most_common():
        typer.echo(f"  {kind:40s} {count / pictures:8.3f}")


def _requests(server: Seaweed) -> Counter[str]:
    with urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    found = Counter[str]()
    for match in COUNTED.finditer(text):
        labels = dict(part.split("=", 1) for part in match["labels"].split(","))
        found[f"{labels.get('type', '').strip(chr(34))} {labels.get('code', '').strip(chr(34))}"] += int(match["count"])
    return found


if __name__ == "__main__":
    typer.run(main)
