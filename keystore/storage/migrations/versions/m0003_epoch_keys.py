"""Epoch keys stand between the KEK and all other keys; an owner may have a shred key in each epoch.

The tables that hold wrapped keys are made anew in SQLite, which can not drop a column that is a foreign key. What they hold stays
wrapped under the KEK itself (`epoch_id` unset) until the keystore is opened with it (keystore.upgrade).
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from keystore.storage import guards

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "epoch_keys",
        sa.Column("epoch_id", sa.String(), primary_key=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek_version", sa.Integer(), sa.ForeignKey("kek_versions.version"), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("deactivated_at", sa.String()),
        sa.Column("destroyed_at", sa.String()),
        sa.CheckConstraint("state IN ('active', 'deactivated', 'destroyed')", name="epoch_state"),
        sa.CheckConstraint("(state = 'active') = (deactivated_at IS NULL)", name="epoch_deactivated"),
        sa.CheckConstraint("(state = 'destroyed') = (destroyed_at IS NOT NULL)", name="epoch_destroyed"),
        sa.CheckConstraint("(state = 'destroyed') = (length(wrapped) = 0)", name="epoch_destroyed_is_empty"),
    )
    op.create_index("epoch_keys_by_state", "epoch_keys", ["purpose", "state"])
    # The only steps of a key's life (NIST SP 800-57 Part 1 Rev. 5, section 7.3): no key is active again, none comes back.
    guards.refuse(
        "epoch_keys_states",
        "epoch_keys",
        "UPDATE OF state",
        "an epoch key does not go back",
        when="NOT (NEW.state = OLD.state OR (OLD.state = 'active' AND NEW.state = 'deactivated') "
        "OR (OLD.state = 'deactivated' AND NEW.state = 'destroyed'))",
    )
    guards.refuse("epoch_keys_no_delete", "epoch_keys", "DELETE", "an epoch key is destroyed, and its row stays")
    _remake(
        "secrets",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        _epoch_id(),
    )
    _remake(
        "ingest_keys",
        sa.Column("key_id", sa.String(), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        _epoch_id(),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("retired_at", sa.String()),
    )
    op.drop_index("people_by_tag", "people")
    _remake(
        "people",
        sa.Column("person", sa.String(), primary_key=True),
        sa.Column("salt", sa.LargeBinary()),
        sa.Column("name", sa.String(), unique=True),
        sa.Column("public_key", sa.LargeBinary()),
        sa.Column("wrapped", sa.LargeBinary()),
        _epoch_id(),
        sa.Column("tag", sa.String()),
    )
    op.create_index("people_by_tag", "people", ["tag"], unique=True)
    _remake(
        "shred_keys",
        sa.Column("shred_key_id", sa.String(), primary_key=True),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        _epoch_id(),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("entry", sa.Integer()),
        sa.UniqueConstraint("dataset", "owner", "epoch_id", name="one_shred_key_per_owner_and_epoch"),
    )
    op.create_index("shred_keys_by_epoch", "shred_keys", ["epoch_id"])


def _epoch_id() -> sa.Column[Any]:
    return sa.Column("epoch_id", sa.String(), sa.ForeignKey("epoch_keys.epoch_id"))


def _remake(name: str, *parts: sa.Column[Any] | sa.UniqueConstraint) -> None:
    if (
        op.get_bind().dialect.name == "postgresql"
    ):  # made by this program, so its tables are empty, and others refer to them
        op.drop_column(name, "kek_version")
        op.add_column(name, _epoch_id())
        for part in parts:
            if isinstance(part, sa.UniqueConstraint):
                op.drop_constraint("one_shred_key_per_owner", name)
                op.create_unique_constraint(str(part.name), name, ["dataset", "owner", "epoch_id"])
        return
    kept = ", ".join(part.name for part in parts if isinstance(part, sa.Column) and part.name != "epoch_id")
    op.create_table(f"new_{name}", *parts)
    op.execute(f"INSERT INTO new_{name} ({kept}) SELECT {kept} FROM {name}")  # noqa: S608  # names of our own
    op.drop_table(name)
    op.rename_table(f"new_{name}", name)


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
