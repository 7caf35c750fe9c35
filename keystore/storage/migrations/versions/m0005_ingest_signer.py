"""Ingest signs what it writes into the log with a key of its own, which the audit key vouches for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("identity", sa.Column("ingest_vkey", sa.String()))
    op.add_column("identity", sa.Column("ingest_certificate", sa.LargeBinary()))


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
