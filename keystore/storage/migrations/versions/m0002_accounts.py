"""People are found by a keyed index that outlives erasure; records, shred keys and ingest keys are accounted for in the log;
erasures are remembered; a run is registered before its shards are taken in.

What a store held before has no account yet: it gets one, under its KEK, when it is opened next (keystore.upgrade).
"""

import sqlalchemy as sa
from alembic import op

from keystore.storage import guards

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("people", sa.Column("tag", sa.String()))
    op.create_index("people_by_tag", "people", ["tag"], unique=True)
    op.add_column("records", sa.Column("entry", sa.Integer()))
    op.create_index("records_by_entry", "records", ["entry"])
    op.create_index("records_by_shred_key", "records", ["shred_key_id"])
    op.add_column("shred_keys", sa.Column("entry", sa.Integer()))
    op.add_column("ingest_keys", sa.Column("retired_at", sa.String()))
    op.create_table(
        "erasures",
        sa.Column("dataset", sa.String(), primary_key=True),
        sa.Column("owner", sa.String(), primary_key=True),
        sa.Column("entry", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("erased_at", sa.String(), nullable=False),
    )
    op.create_table(
        "erased",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("erased_entry", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String()),
    )
    op.create_index("erased_by_tag", "erased", ["tag"])
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("dataset", sa.String()),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("registered_at", sa.String(), nullable=False),
    )
    guards.append_only("erased", "erasures")


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
