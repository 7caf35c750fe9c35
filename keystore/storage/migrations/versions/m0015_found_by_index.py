"""A record is found by its image alone, whatever its data set, and those of an image's parts by how their image ids begin; the
newest requests without reading the others."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("records_by_image", "records")
    # In PostgreSQL byte by byte: in the order of a language, texts that begin alike need not stand together.
    bytewise = {"image_id": "varchar_pattern_ops"}
    op.create_index("records_by_image", "records", ["image_id", "dataset"], postgresql_ops=bytewise)
    op.create_index("requests_by_time", "requests", ["created_at"])


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
