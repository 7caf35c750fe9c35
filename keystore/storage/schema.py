"""The tables of the keystore, as SQLAlchemy Core metadata. `migrations/` builds them; a test holds the two together.

People appear in every table but `people` as commitments (decisions.identity). Times are text of fixed width (crypto.canonical).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Column, Dialect, ForeignKey, Index, Integer, MetaData, Table, UniqueConstraint
from sqlalchemy import LargeBinary as SqlBinary
from sqlalchemy import String as SqlString
from sqlalchemy import Text as SqlText
from sqlalchemy.types import TypeDecorator

from keystore.errors import TamperedError

metadata = MetaData()


# SQLite takes any value in any column. What comes out of a column with another type than went in was put there by someone else.
class LargeBinary(TypeDecorator[bytes]):
    """Bytes, or TamperedError on reading."""

    impl = SqlBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        if value is not None and not isinstance(value, bytes):
            raise TamperedError("the database holds text where bytes belong: it was edited; restore it from a backup")
        return value


class String(TypeDecorator[str]):
    """Text, or TamperedError on reading."""

    impl = SqlString
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        if value is not None and not isinstance(value, str):
            raise TamperedError(
                "the database holds another value where text belongs: it was edited; restore it from a backup"
            )
        return value


class Text(String):
    """Long text, or TamperedError on reading."""

    impl = SqlText
    cache_ok = True


identity = Table(
    "identity",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("keystore_id", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("audit_vkey", String, nullable=False),
    Column(
        "ingest_vkey", String
    ),  # that ingest signs its entries with, and the audit key's signature that vouches for it
    Column("ingest_certificate", LargeBinary),
)

kek_versions = Table(
    "kek_versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("kek_id", String, nullable=False),
    Column("uri", String, nullable=False),
    Column("created_at", String, nullable=False),
)

# The keys between the KEK and all others (vault.epochs); migration 0003 guards how the state may change.
epoch_keys = Table(
    "epoch_keys",
    metadata,
    Column("epoch_id", String, primary_key=True),
    Column("purpose", String, nullable=False),  # audit, index, ingest, people, records
    Column("state", String, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),  # empty once destroyed
    Column("kek_version", Integer, ForeignKey("kek_versions.version"), nullable=False),
    Column("created_at", String, nullable=False),
    Column("deactivated_at", String),
    Column("destroyed_at", String),
    CheckConstraint("state IN ('active', 'deactivated', 'destroyed')", name="epoch_state"),
    CheckConstraint("(state = 'active') = (deactivated_at IS NULL)", name="epoch_deactivated"),
    CheckConstraint("(state = 'destroyed') = (destroyed_at IS NOT NULL)", name="epoch_destroyed"),
    CheckConstraint("(state = 'destroyed') = (length(wrapped) = 0)", name="epoch_destroyed_is_empty"),
    Index("epoch_keys_by_state", "purpose", "state"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("epoch_id", String, ForeignKey("epoch_keys.epoch_id")),  # unset until an older keystore is opened
)

ingest_keys = Table(
    "ingest_keys",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("epoch_id", String, ForeignKey("epoch_keys.epoch_id")),  # unset until an older keystore is opened
    Column("created_at", String, nullable=False),
    Column("retired_at", String),  # its private part is gone since then: `wrapped` is empty
)

policies = Table(
    "policies",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
    Column("digest", String, nullable=False),
    Column("set_at", String, nullable=False),
)

people = Table(
    "people",
    metadata,
    Column("person", String, primary_key=True),
    Column("salt", LargeBinary),  # salt and name go when a person is erased
    Column("name", String, unique=True),
    Column("public_key", LargeBinary),
    Column("wrapped", LargeBinary),
    Column("epoch_id", String, ForeignKey("epoch_keys.epoch_id")),
    Column("tag", String),  # keyed index of issuer and subject: stays, so that one person never becomes two
    Index("people_by_tag", "tag", unique=True),
)

# Keys that approvers made themselves (decisions.approvers); `people` has those that the keystore keeps for the others.
approver_keys = Table(
    "approver_keys",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("person", String, ForeignKey("people.person"), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("role", String, nullable=False),
    Column("enrolled_at", String, nullable=False),
    Column("removed_at", String),
    Column("passkey", LargeBinary),  # canonical JSON of decisions.passkeys.Passkey; unset: an Ed25519 key
    Index("approver_keys_by_person", "person"),
)

shred_keys = Table(
    "shred_keys",
    metadata,
    Column("shred_key_id", String, primary_key=True),
    Column("dataset", String, nullable=False),
    Column("owner", String, nullable=False),  # keyed hash of the subject, or of the record id where there is no subject
    Column("wrapped", LargeBinary, nullable=False),
    Column("epoch_id", String, ForeignKey("epoch_keys.epoch_id")),  # unset until an older keystore is opened
    Column("created_at", String, nullable=False),
    Column("entry", Integer),  # the log's entry that accounts for this key
    UniqueConstraint("dataset", "owner", "epoch_id", name="one_shred_key_per_owner_and_epoch"),
    Index("shred_keys_by_epoch", "epoch_id"),
)

# Of each subject of a data set the secret that its carriers are derived from, and which of them holds (vault.pseudonyms).
pseudonyms = Table(
    "pseudonyms",
    metadata,
    Column("pseudonym_id", String, primary_key=True),
    Column("dataset", String, nullable=False),
    Column("owner", String, nullable=False),  # keyed hash of the subject
    Column("wrapped", LargeBinary, nullable=False),
    Column("epoch_id", String, ForeignKey("epoch_keys.epoch_id"), nullable=False),
    Column("created_at", String, nullable=False),
    Column("entry", Integer, nullable=False),  # the log's entry that accounts for this secret
    Column("number", Integer),  # of the carrier that holds; unset: none is settled
    Column("tag", LargeBinary),  # keyed hash of the number: who can only write rows settles none
    UniqueConstraint("dataset", "owner", name="one_pseudonym_per_owner"),
    Index("pseudonyms_by_epoch", "epoch_id"),
)

shards = Table(
    "shards",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("sha256", String, primary_key=True),
    Column("records", Integer, nullable=False),  # how many records of it this keystore took in
    Column("ingested_at", String, nullable=False),
)

records = Table(
    "records",
    metadata,
    Column("record_id", String, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("image_id", String, nullable=False),
    Column("source_sha256", String, nullable=False),
    Column("record_version", Integer, nullable=False),
    Column("envelope_version", Integer, nullable=False),
    Column("shred_key_id", String, ForeignKey("shred_keys.shred_key_id"), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("sealed_sha256", String, nullable=False),
    Column("shard_name", String, nullable=False),
    Column("shard_sha256", String, nullable=False),
    Column("ingested_at", String, nullable=False),
    Column("entry", Integer),  # the log's entry that accounts for this record
    Index("records_by_image", "image_id", "dataset", postgresql_ops={"image_id": "varchar_pattern_ops"}),
    Index("records_by_shred_key", "shred_key_id"),
    Index("records_by_run", "run_id"),
)

# What is left of what was erased: digests that the log accounted for, and keyed tags that recognise a copy that comes back.
erasures = Table(
    "erasures",
    metadata,
    Column("dataset", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("entry", Integer, primary_key=True, autoincrement=False),
    Column("erased_at", String, nullable=False),
)

erased = Table(
    "erased",
    metadata,
    Column("digest", String, primary_key=True),
    Column("kind", String, nullable=False),  # record, key
    Column("entry", Integer, nullable=False),  # that accounted for it
    Column("erased_entry", Integer, nullable=False),  # that says it was erased
    Column("tag", String),  # keyed hash of a record's id
    Index("erased_by_tag", "tag"),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("dataset", String),  # the one data set whose records a run may add; unset until it is known
    Column("salt", LargeBinary, nullable=False),
    Column("registered_at", String, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("requester", String, ForeignKey("people.person"), nullable=False),
    Column("case_reference", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("legal_basis", Text, nullable=False),
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("salt", String, nullable=False),
    Column("policy_digest", String, nullable=False),
    Column("approvals_required", Integer, nullable=False),
    Column("digest", String, nullable=False),
    Column("denied_by", String, ForeignKey("people.person")),
    Column("change", LargeBinary),  # canonical JSON of decisions.changes; unset: it asks for keys
    Index("requests_by_state", "state", "expires_at"),
    Index("requests_by_time", "created_at"),
)

request_images = Table(
    "request_images",
    metadata,
    Column("request_id", String, ForeignKey("requests.request_id"), primary_key=True),
    Column("record_id", String, primary_key=True),  # no foreign key: the record may be erased, the request stays
    Column("dataset", String, nullable=False),
    Column("image_id", String, nullable=False),
    Index("request_images_by_record", "record_id"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("request_id", String, ForeignKey("requests.request_id"), primary_key=True),
    Column("digest", String, primary_key=True),
    Column("approver", String, ForeignKey("people.person"), primary_key=True),
    Column("signature", LargeBinary, nullable=False),
    Column("approved_at", String, nullable=False),
    Column("key_id", String),  # of approver_keys; unset: the key that the keystore keeps for this person
    Column("assertion", LargeBinary),  # of a passkey: canonical JSON of decisions.passkeys.Assertion
    Column("grant_seconds", Integer),  # how long the grant may live, where the approver chose a time
)

grants = Table(
    "grants",
    metadata,
    Column("grant_id", String, primary_key=True),
    Column("request_id", String, ForeignKey("requests.request_id"), nullable=False),
    Column("digest", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    UniqueConstraint("request_id", "digest", name="one_grant_per_content"),
)

releases = Table(
    "releases",
    metadata,
    # The primary key is what makes a grant one-shot, whatever the code above it does.
    Column("grant_id", String, ForeignKey("grants.grant_id"), primary_key=True),
    Column("recipient", String, nullable=False),
    Column("released_at", String, nullable=False),
)

# Whom the service takes its callers for (decisions.tokens).
tokens = Table(
    "tokens",
    metadata,
    Column("token_id", String, primary_key=True),
    Column("person", String, ForeignKey("people.person"), nullable=False),
    Column("role", String, nullable=False),
    Column("dataset", String),  # the only one that it is good for; unset: all
    Column("secret_sha256", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("revoked_at", String),
    Column("tag", LargeBinary, nullable=False),  # keyed hash of all the others: who can only write rows makes no token
    Column("binding", String),  # by which its person signed in; unset: an operator issued it
    Index("tokens_by_expiry", "expires_at"),
)

# Which person an identity provider's (issuer, subject) stands for (decisions.bindings). Rows stay.
bindings = Table(
    "bindings",
    metadata,
    Column("binding_id", String, primary_key=True),
    Column("identity", String, nullable=False),  # keyed hash of the pair
    Column("person", String, ForeignKey("people.person"), nullable=False),
    Column("role", String, nullable=False),
    Column("dataset", String),  # the only one that it is good for; unset: all
    Column("bound_at", String, nullable=False),
    Column("unbound_at", String),
    Column("tag", LargeBinary, nullable=False),  # as of tokens
    Index("bindings_by_identity", "identity"),
)

# Releases as they were sent, sealed to who asked, for as long as a lost one may be fetched again (decisions.replies).
replies = Table(
    "replies",
    metadata,
    Column("grant_id", String, ForeignKey("releases.grant_id"), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("until", String, nullable=False),
    Column("fetched", Integer, nullable=False),  # how many times it was fetched again
)

log = Table(
    "log",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
)

# Of the log's tree: roots of full subtrees of 16, 256, 4,096 ... leaves (audit.tree).
nodes = Table(
    "nodes",
    metadata,
    Column("height", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),  # among those of its height
    Column("hash", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
)

milestone = Table(
    "milestone",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("document", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),  # of the audit key
)
