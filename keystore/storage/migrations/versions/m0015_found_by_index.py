"""A record is found by its image alone, whatever its data set, and those of an image's parts by how their image ids begin."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("records_by_image", "records")
    # In PostgreSQL byte by byte: how else a text begins is no range of its index, unless the database's order is "C".
    bytewise = {"image_id": "varchar_pattern_ops"}
    op.create_index("records_by_image", "records", ["image_id", "dataset"], postgresql_ops=bytewise)


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
