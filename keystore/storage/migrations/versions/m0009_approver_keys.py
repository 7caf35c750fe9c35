"""Keys that approvers made themselves, and with which of them an approval was signed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approver_keys",
        sa.Column("key_id", sa.String(), primary_key=True),
        sa.Column("person", sa.String(), sa.ForeignKey("people.person"), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("enrolled_at", sa.String(), nullable=False),
        sa.Column("removed_at", sa.String()),
    )
    op.create_index("approver_keys_by_person", "approver_keys", ["person"])
    op.add_column("approvals", sa.Column("key_id", sa.String()))


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
