"""What each part may do with the buckets, tried on a real server that is given the policies of infra/terraform as they are."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.infra.policy_server import BUCKETS, PARTS, PolicyServer, rendered

SHARD, RECEIPT, PICTURE = "inbox/run-1/a.keys", "inbox/_receipts/run-1/a.receipt", "out/images/a.png"
LISTED = {"anonymize": {"photographs", "output", "inbox"}, "ingest": {"inbox"}, "recover": {"output"}}
# Part, bucket, object: what of get, put and delete it may do.
RIGHTS = [
    ("anonymize", "photographs", "in/a.png", {"get"}),
    ("anonymize", "output", PICTURE, {"get", "put", "delete"}),
    ("anonymize", "inbox", SHARD, {"put", "delete"}),
    ("anonymize", "inbox", RECEIPT, {"get", "delete"}),
    ("anonymize", "inbox", "inbox/run-1/other", set()),
    ("ingest", "photographs", "in/a.png", set()),
    ("ingest", "output", PICTURE, set()),
    ("ingest", "inbox", SHARD, {"get", "delete"}),
    ("ingest", "inbox", RECEIPT, {"get", "put"}),
    ("recover", "photographs", "in/a.png", set()),
    ("recover", "output", PICTURE, {"get"}),
    ("recover", "inbox", SHARD, set()),
    ("recover", "inbox", RECEIPT, set()),
]


def _refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
        return True
    return False


@pytest.mark.parametrize(("part", "bucket", "key", "allowed"), RIGHTS)
def test_a_part_may_do_just_this(
    policy_server: PolicyServer, part: str, bucket: str, key: str, allowed: set[str]
) -> None:
    client, place = policy_server.client_of(part), {"Bucket": BUCKETS[bucket], "Key": key}
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: client.get_object(**place)["Body"].read(),
        "put": lambda: client.put_object(**place, Body=b"new"),
        "delete": lambda: client.delete_object(**place),
    }
    for action, call in calls.items():
        policy_server.client().put_object(**place, Body=b"there")
        assert _refused(call) is (action not in allowed), action
    copy = {
        **place,
        "CopySource": {"Bucket": BUCKETS["inbox"], "Key": SHARD},
    }  # neither do copies read what a get may not
    policy_server.client().put_object(Bucket=BUCKETS["inbox"], Key=SHARD, Body=b"sealed")
    if part != "ingest":
        assert _refused(lambda: client.copy_object(**copy))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_lists_just_its_buckets_and_changes_none(policy_server: PolicyServer, part: str) -> None:
    client = policy_server.client_of(part)
    listed = {one for one, bucket in BUCKETS.items() if not _refused(lambda b=bucket: client.list_objects_v2(Bucket=b))}
    assert listed == LISTED[part]
    for bucket in BUCKETS.values():
        assert _refused(lambda b=bucket: client.delete_bucket(Bucket=b))
        assert _refused(
            lambda b=bucket: client.put_bucket_versioning(Bucket=b, VersioningConfiguration={"Status": "Suspended"})
        )
        assert _refused(lambda b=bucket: client.put_bucket_policy(Bucket=b, Policy="{}"))
        assert _refused(lambda b=bucket: client.list_object_versions(Bucket=b))
    assert _refused(lambda: client.create_bucket(Bucket=f"{part}-bucket-of-its-own"))


def test_a_shard_is_put_once(policy_server: PolicyServer) -> None:
    client, place = policy_server.client_of("anonymize"), {"Bucket": BUCKETS["inbox"], "Key": "inbox/run-1/once.keys"}
    client.put_object(**place, Body=b"sealed", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"another", IfNoneMatch="*")


@pytest.mark.parametrize("part", PARTS)
def test_no_right_is_given_by_a_wildcard(part: str) -> None:
    for statement in rendered(f"{part}.json", **BUCKETS)["Statement"]:
        actions, resources = (
            one if isinstance(one, list) else [one] for one in (statement["Action"], statement["Resource"])
        )
        assert statement["Effect"] == "Allow" and not any("*" in action for action in actions)
        assert all(resource.startswith("arn:aws:s3:::test-keyanon-") for resource in resources)
