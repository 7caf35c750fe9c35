"""What is open is found without reading what is over: requests, tokens, and who else asked for a record."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("requests_by_state", "requests", ["state", "expires_at"])
    op.create_index("request_images_by_record", "request_images", ["record_id"])
    op.create_index("tokens_by_expiry", "tokens", ["expires_at"])


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
