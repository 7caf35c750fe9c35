"""What serving over HTTP needs: tokens that people and jobs are known by, and replies that were lost on their way."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.String(), primary_key=True),
        sa.Column("person", sa.String(), sa.ForeignKey("people.person"), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("dataset", sa.String()),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("expires_at", sa.String(), nullable=False),
        sa.Column("revoked_at", sa.String()),
        sa.Column("tag", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "replies",
        sa.Column("grant_id", sa.String(), sa.ForeignKey("releases.grant_id"), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("until", sa.String(), nullable=False),
        sa.Column("fetched", sa.Integer(), nullable=False),
    )


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
