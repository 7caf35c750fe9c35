"""The node of a local cluster: Ray's, without three processes that serve nobody there.

Ray starts them beside every head node and has no setting against them: one follows the workers' logs for the driver's terminal,
which `log_to_driver=False` keeps quiet; one asks a cloud for machines; one is the API server, without a dashboard left with
reports to Ray's makers. Each is a Python process that polls until the run ends, and Ray waits for the last one before it starts a
worker.
"""

import contextlib
from collections.abc import Iterator

from ray._private import node as ray_node


class _LocalNode(ray_node.Node):  # type: ignore[misc]  # Ray's code of this kind is not typed
    """Starts the control store and the raylet, which starts workers and their agents."""

    def start_log_monitor(self) -> None:
        """None."""

    def start_monitor(self) -> None:
        """None."""

    def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
        """None."""


@contextlib.contextmanager
def local_nodes() -> Iterator[None]:
    """Nodes that `ray.init` starts in the `with` block are of this kind."""
    plain = ray_node.Node
    ray_node.Node = _LocalNode
    try:
        yield
    finally:
        ray_node.Node = plain
