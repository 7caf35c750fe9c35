"""Identities of a provider that stand for people, and which of them a token came from."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bindings",
        sa.Column("binding_id", sa.String(), primary_key=True),
        sa.Column("identity", sa.String(), nullable=False),
        sa.Column("person", sa.String(), sa.ForeignKey("people.person"), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("dataset", sa.String()),
        sa.Column("bound_at", sa.String(), nullable=False),
        sa.Column("unbound_at", sa.String()),
        sa.Column("tag", sa.LargeBinary(), nullable=False),
    )
    op.create_index("bindings_by_identity", "bindings", ["identity"])
    op.add_column("tokens", sa.Column("binding", sa.String()))


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
