"""The Terraform files: they parse, what they refer to exists, and what they promise of buckets, key, database and accounts."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
from hcl2.utils import SerializationOptions

from keystore.vault.keyring import ALL_PURPOSES, INGEST_PURPOSES, RECORDS_PURPOSE, SERVICE_PURPOSES
from tests.infra.manifests import manifests, named
from tests.infra.policy_server import BUCKETS, PARTS, POLICIES, rendered

FOLDER = Path(__file__).parents[2] / "infra/terraform"
FILES = sorted(FOLDER.glob("*.tf"))
PLAIN = SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)


@cache
def blocks() -> dict[str, dict[str, Any]]:
    """All blocks: by `resource`, `data`, `variable`, `output`, `locals`, and by address (`aws_s3_bucket.this`) or name."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in FILES:
        with path.open() as file:
            for kind, entries in hcl2.load(file, serialization_options=PLAIN).items():
                for entry in entries:
                    for label, body in entry.items():
                        if kind in ("resource", "data"):
                            found[kind].update({f"{label}.{name}": one for name, one in body.items()})
                        else:
                            found[kind][label] = body
    return found


def test_what_is_referred_to_is_declared_and_what_is_declared_is_used() -> None:
    text = "\n".join(re.sub(r"(?m)^\s*#.*$", "", path.read_text()) for path in FILES)
    resources = set(re.findall(r"(?<![\w.])(aws_\w+\.\w+)", text))
    data = set(re.findall(r"(?<![\w.])data\.(\w+\.\w+)", text))
    variables, values = (set(re.findall(rf"(?<![\w.]){kind}\.(\w+)", text)) for kind in ("var", "local"))
    assert resources and resources <= set(blocks()["resource"])
    assert data == set(blocks()["data"])
    assert variables == set(blocks()["variable"])
    assert values == set(blocks()["locals"])
    assert all(one["description"] for kind in ("variable", "output") for one in blocks()[kind].values())


def test_policies_are_filled_in_as_the_tests_fill_them_in() -> None:
    """`templatefile` fails on a name that it is not given; each policy file has a user."""
    used = re.findall(
        r'templatefile\("\$\{path\.module\}/policies/([^"]+)"', "".join(path.read_text() for path in FILES)
    )
    assert set(used) == {"bucket.json", "${each.key}.json", "endpoint.json", "kek-${each.key}.json"}
    assert set(blocks()["locals"]["accounts"]) == {*PARTS, "keystore"}
    others = {"bucket.json", "endpoint.json", "kek-ingest.json", "kek-keystore.json"}
    assert {path.name for path in POLICIES.iterdir()} == {*others, *(f"{part}.json" for part in PARTS)}
    assert set(blocks()["locals"]["buckets"]) == set(BUCKETS)
    rendered("endpoint.json", **BUCKETS)
    (statement,) = rendered("bucket.json", bucket="b")["Statement"]
    assert statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_every_bucket_is_private_encrypted_and_versioned() -> None:
    resource = blocks()["resource"]
    assert resource["aws_s3_bucket.this"]["for_each"] == "${local.buckets}"
    for kind in ("public_access_block", "ownership_controls", "server_side_encryption_configuration", "versioning"):
        assert resource[f"aws_s3_bucket_{kind}.this"]["for_each"] == "${aws_s3_bucket.this}"
    blocked = resource["aws_s3_bucket_public_access_block.this"]
    assert all(
        blocked[name] is True
        for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    )
    (rule,) = resource["aws_s3_bucket_server_side_encryption_configuration.this"]["rule"]
    assert rule["apply_server_side_encryption_by_default"][0]["kms_master_key_id"] == "${aws_kms_key.this.arn}"
    assert resource["aws_s3_bucket_versioning.this"]["versioning_configuration"] == [{"status": "Enabled"}]
    (lock,) = resource["aws_s3_bucket_object_lock_configuration.inbox"]["rule"]
    assert lock["default_retention"] == [{"mode": "COMPLIANCE", "days": "${var.keep_shards_days}"}]
    assert resource["aws_kms_key.this"]["enable_key_rotation"] is True


def test_the_database_is_encrypted_private_and_has_no_password_here() -> None:
    database = blocks()["resource"]["aws_db_instance.keystore"]
    wanted = {"storage_encrypted": True, "publicly_accessible": False, "deletion_protection": True}
    assert {name: database[name] for name in wanted} == wanted
    assert database["manage_master_user_password"] is True and "password" not in database
    text = "".join(path.read_text() for path in FILES)
    assert not re.search(r'(?i)(password|secret_key|access_key|token)\s*=\s*"', text)


def test_the_kek_lets_each_opening_unwrap_what_it_asks_for_and_nothing_else() -> None:
    for part, purposes in (("ingest", INGEST_PURPOSES), ("keystore", SERVICE_PURPOSES)):
        statements = rendered(f"kek-{part}.json", key="arn:aws:kms:eu:1:key/k")["Statement"]
        assert all(one["Effect"] == "Allow" and one["Resource"] == "arn:aws:kms:eu:1:key/k" for one in statements)
        allowed = {one for one in ALL_PURPOSES if _kms_allows(statements, "kms:Decrypt", f"epoch {one}")}
        assert allowed == purposes
        wrapped = {one for one in ALL_PURPOSES if _kms_allows(statements, "kms:Encrypt", f"epoch {one}")}
        assert wrapped == ({RECORDS_PURPOSE} if part == "ingest" else ALL_PURPOSES)
    assert blocks()["resource"]["aws_kms_key.kek"]["lifecycle"] == [{"prevent_destroy": True}]


def _kms_allows(statements: list[dict[str, Any]], action: str, kind: str) -> bool:
    """By the two operators used here; an unknown one fails."""
    for one in statements:
        if action in (one["Action"] if isinstance(one["Action"], list) else [one["Action"]]):
            ((operator, tested),) = one.get("Condition", {"StringEquals": {}}).items()
            values = tested.get("kms:EncryptionContext:kind", kind)
            if (kind in (values if isinstance(values, list) else [values])) is {
                "StringEquals": True,
                "StringNotEquals": False,
            }[operator]:
                return True
    return False


def test_accounts_endpoint_and_settings_are_those_of_the_manifests() -> None:
    accounts = blocks()["locals"]["accounts"]
    assert {part: named("ServiceAccount", name)["metadata"]["namespace"] for part, (_, name) in accounts.items()} == {
        part: namespace for part, (namespace, _) in accounts.items()
    }
    for endpoint in ("s3_endpoint_cidr", "kms_endpoint_cidr"):
        assert blocks()["variable"][endpoint]["default"] in json.dumps(manifests("network.yaml"))


def test_terraform_finds_its_own_form_in_the_files() -> None:
    if shutil.which("terraform") is None:
        pytest.skip("terraform comes in no Python package; the files were parsed by python-hcl2 alone")
    done = subprocess.run(["terraform", "fmt", "-check", "-diff", FOLDER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
