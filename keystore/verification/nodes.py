"""Are the stored nodes of the log's tree those of its leaves?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from keystore.audit.tree import HEIGHT, stored_nodes
from keystore.errors import TamperedError
from keystore.storage import schema


class NodeCheck:
    """The stored nodes, held against the leaves as they come; a problem for each height that has a wrong one."""

    def __init__(self, connection: Connection, problems: list[str]) -> None:
        self._connection = connection
        self._problems = problems
        self._stored: dict[int, Iterator[Any]] = {}
        self._wrong: set[int] = set()

    def reach(self, size: int, completed: Sequence[bytes]) -> None:
        """Check the nodes that the last leaf of a tree of `size` completed."""
        for node in stored_nodes(size, completed):
            if node["height"] not in self._wrong and self._next(node["height"]) != (node["position"], node["hash"]):
                self._wrong.add(node["height"])
                self._problems.append(
                    f"node {node['position']} of height {node['height']} of the log's tree is not that of its leaves: it was "
                    "edited, dropped or added"
                )

    def end(self, size: int) -> None:
        """Say what is stored beyond the tree of all leaves."""
        expected = sum(size >> height for height in range(HEIGHT, size.bit_length(), HEIGHT))
        stored = self._connection.execute(select(func.count()).select_from(schema.nodes)).scalar_one()
        if stored != expected and not self._wrong:
            self._problems.append(f"{stored} nodes of the log's tree are stored, and it has {expected}")

    def _next(self, height: int) -> tuple[int, bytes] | None:
        if height not in self._stored:
            table = schema.nodes.c
            query = select(table.position, table.hash).where(table.height == height).order_by(table.position)
            self._stored[height] = iter(self._connection.execute(query.execution_options(yield_per=1000)))
        try:
            row = next(self._stored[height], None)
        except TamperedError:
            return None
        return None if row is None else (row.position, row.hash)
