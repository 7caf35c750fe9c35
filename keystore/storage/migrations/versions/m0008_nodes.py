"""Nodes of the log's tree are kept, so that a proof need not read the log; those of a log that is there are computed."""

import hashlib

import sqlalchemy as sa
from alembic import op

from keystore.storage import guards

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EVERY = 4  # levels of the tree
_ROWS = 1000


def upgrade() -> None:
    nodes = op.create_table(
        "nodes",
        sa.Column("height", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
    )
    guards.append_only("nodes")
    connection, made, full = op.get_bind(), [], list[bytes]()  # full: roots of the full subtrees so far (RFC 6962)
    leaves = sa.text("SELECT leaf FROM log ORDER BY seq")
    for number, (leaf,) in enumerate(connection.execute(leaves.execution_options(yield_per=_ROWS))):
        carry, height, rest = hashlib.sha256(b"\0" + bytes(leaf)).digest(), 0, number
        while rest & 1:
            carry, height, rest = hashlib.sha256(b"\1" + full.pop() + carry).digest(), height + 1, rest >> 1
            if height % _EVERY == 0:
                made.append({"height": height, "position": number >> height, "hash": carry})
        full.append(carry)
    for start in range(0, len(made), _ROWS):
        connection.execute(nodes.insert(), made[start : start + _ROWS])


def downgrade() -> None:
    raise RuntimeError("a keystore is not migrated backwards; restore the backup made before the upgrade")
