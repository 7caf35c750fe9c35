"""The first schema: identity, wrapped keys, records, requests with approvals and grants, the log."""

import sqlalchemy as sa
from alembic import op

from keystore.storage import guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "identity",
        sa.Column("only", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("keystore_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("audit_vkey", sa.String(), nullable=False),
    )
    op.create_table(
        "kek_versions",
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kek_id", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek_version", sa.Integer(), sa.ForeignKey("kek_versions.version"), nullable=False),
    )
    op.create_table(
        "ingest_keys",
        sa.Column("key_id", sa.String(), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek_version", sa.Integer(), sa.ForeignKey("kek_versions.version"), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
    )
    op.create_table(
        "policies",
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("set_at", sa.String(), nullable=False),
    )
    op.create_table(
        "people",
        sa.Column("person", sa.String(), primary_key=True),
        sa.Column("salt", sa.LargeBinary()),
        sa.Column("name", sa.String(), unique=True),
        sa.Column("public_key", sa.LargeBinary()),
        sa.Column("wrapped", sa.LargeBinary()),
        sa.Column("kek_version", sa.Integer(), sa.ForeignKey("kek_versions.version")),
    )
    op.create_table(
        "shred_keys",
        sa.Column("shred_key_id", sa.String(), primary_key=True),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek_version", sa.Integer(), sa.ForeignKey("kek_versions.version"), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.UniqueConstraint("dataset", "owner", name="one_shred_key_per_owner"),
    )
    op.create_table(
        "shards",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("sha256", sa.String(), primary_key=True),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("ingested_at", sa.String(), nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("record_id", sa.String(), primary_key=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("source_sha256", sa.String(), nullable=False),
        sa.Column("record_version", sa.Integer(), nullable=False),
        sa.Column("envelope_version", sa.Integer(), nullable=False),
        sa.Column("shred_key_id", sa.String(), sa.ForeignKey("shred_keys.shred_key_id"), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_sha256", sa.String(), nullable=False),
        sa.Column("shard_name", sa.String(), nullable=False),
        sa.Column("shard_sha256", sa.String(), nullable=False),
        sa.Column("ingested_at", sa.String(), nullable=False),
    )
    op.create_index("records_by_image", "records", ["dataset", "image_id"])
    op.create_index("records_by_shard", "records", ["run_id", "shard_name", "shard_sha256"])
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(), primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("requester", sa.String(), sa.ForeignKey("people.person"), nullable=False),
        sa.Column("case_reference", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("legal_basis", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("policy_digest", sa.String(), nullable=False),
        sa.Column("approvals_required", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("denied_by", sa.String(), sa.ForeignKey("people.person")),
    )
    op.create_table(
        "request_images",
        sa.Column("request_id", sa.String(), sa.ForeignKey("requests.request_id"), primary_key=True),
        sa.Column("record_id", sa.String(), primary_key=True),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("request_id", sa.String(), sa.ForeignKey("requests.request_id"), primary_key=True),
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("approver", sa.String(), sa.ForeignKey("people.person"), primary_key=True),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("approved_at", sa.String(), nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("grant_id", sa.String(), primary_key=True),
        sa.Column("request_id", sa.String(), sa.ForeignKey("requests.request_id"), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=False),
        sa.UniqueConstraint("request_id", "digest", name="one_grant_per_content"),
    )
    op.create_table(
        "releases",
        sa.Column("grant_id", sa.String(), sa.ForeignKey("grants.grant_id"), primary_key=True),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("released_at", sa.String(), nullable=False),
    )
    op.create_table(
        "log",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
    )
    guards.append_only("log", "checkpoints", "releases")


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
