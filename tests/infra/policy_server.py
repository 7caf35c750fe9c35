"""The policies of infra/terraform, word for word, as the rights of identities of a real S3 server."""

import json
import string
from pathlib import Path
from typing import Any

import boto3

from tests.jobs.seaweed import Seaweed

POLICIES = Path(__file__).parents[2] / "infra/terraform/policies"
BUCKETS = {part: f"test-keyanon-{part}" for part in ("photographs", "output", "inbox")}
PARTS = ("anonymize", "ingest", "recover")


def rendered(name: str, **values: str) -> dict[str, Any]:
    """A policy as Terraform's `templatefile` makes it. Raises KeyError where a value is missing."""
    policy: dict[str, Any] = json.loads(string.Template((POLICIES / name).read_text()).substitute(values))
    return policy


def credentials(part: str) -> tuple[str, str]:
    return f"{part.upper()}KEYID", f"the-secret-of-{part}"


class PolicyServer(Seaweed):
    """SeaweedFS with the three buckets, and an identity for each part whose only right is that part's policy."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        settings = json.loads((root / "s3.json").read_text())
        settings["policies"] = [
            {"name": part, "content": json.dumps(rendered(f"{part}.json", **BUCKETS))} for part in PARTS
        ]
        for part in PARTS:
            key, secret = credentials(part)
            identity = {"name": part, "credentials": [{"accessKey": key, "secretKey": secret}], "policyNames": [part]}
            settings["identities"].append(identity)
        (root / "s3.json").write_text(json.dumps(settings))

    def start(self) -> None:
        super().start()
        for bucket in BUCKETS.values():
            self.client().create_bucket(Bucket=bucket)

    def environment_of(self, part: str) -> dict[str, str]:
        """The AWS settings of a part."""
        key, secret = credentials(part)
        return {**self.environment, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def client_of(self, part: str) -> Any:
        """boto3 as a part."""
        key, secret = credentials(part)
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )
