"""Passkeys among the approvers' own keys, what they sign, and the time that an approver chooses for a grant."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("approver_keys", sa.Column("passkey", sa.LargeBinary()))
    op.add_column("approvals", sa.Column("assertion", sa.LargeBinary()))
    op.add_column("approvals", sa.Column("grant_seconds", sa.Integer()))


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
