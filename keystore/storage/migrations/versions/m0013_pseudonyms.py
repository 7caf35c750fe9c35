"""Secrets of pseudonyms, from which the carriers of a subject's faces are derived."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pseudonyms",
        sa.Column("pseudonym_id", sa.String(), primary_key=True),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("epoch_id", sa.String(), sa.ForeignKey("epoch_keys.epoch_id"), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer()),
        sa.Column("tag", sa.LargeBinary()),
        sa.UniqueConstraint("dataset", "owner", name="one_pseudonym_per_owner"),
    )
    op.create_index("pseudonyms_by_epoch", "pseudonyms", ["epoch_id"])


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
