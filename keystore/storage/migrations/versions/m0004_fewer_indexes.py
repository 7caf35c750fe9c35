"""Records are found by run, image, shred key and id. Nobody asks for indexes by entry and by shard, which cost every insert."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("records_by_entry", "records")
    op.drop_index("records_by_shard", "records")
    op.create_index("records_by_run", "records", ["run_id"])


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
