"""Ray Data on a local cluster, without three actors that serve nobody there.

Ray Data starts them with its first dataset and has no setting against them: one keeps figures for Ray's dashboard, one asks a
cloud for machines, one remembers on which machine each actor is. Each is a process that loads Ray Data, two seconds of a CPU,
while nothing is planned before the first is there, and nothing read before the second.
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, Final

import ray
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager


class _OneMachine(ClusterAutoscaler):  # type: ignore[misc]  # Ray's code of this kind is not typed
    """All that there is and will be."""

    def __init__(self, *_: object, **__: object) -> None:
        """For an execution, whatever it is."""

    def try_trigger_scaling(self) -> None:
        """Nobody is asked."""

    def on_executor_shutdown(self) -> None:
        """Nothing was reserved."""

    def get_total_resources(self) -> ExecutionResources:
        return ExecutionResources.from_resource_dict(ray.cluster_resources())


class _Unheard:
    """In place of an actor's handle; travels to the workers. What it is told is forgotten."""

    def __getattr__(self, name: str) -> "_Unheard":
        if name.startswith("__"):  # what pickle asks for
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> None:
        """A call of any of its methods by `remote`."""


def _forget(*_: object, **__: object) -> None:
    """In place of what tells the actor of figures."""


def _new_id() -> str:
    """As Ray Data names a dataset where that actor does not answer."""
    return uuid.uuid4().hex


def _as_they_began(_: tuple[str, ...]) -> dict[str, str]:
    """No news of where actors are: a process that takes another's place takes it on the same machine."""
    return {}


_IN_PLACE: Final[tuple[tuple[Any, str, Any], ...]] = (
    (streaming_executor, "create_cluster_autoscaler", _OneMachine),
    (actor_pool_map_operator, "get_or_create_actor_location_tracker", _Unheard),
    (actor_pool_map_operator, "get_actor_locations", _as_they_began),
    (_StatsManager, "gen_dataset_id_from_stats_actor", staticmethod(_new_id)),
    (_StatsManager, "register_dataset_to_stats_actor", staticmethod(_forget)),
    (_StatsManager, "update_execution_metrics", staticmethod(_forget)),
    (_StatsManager, "update_iteration_metrics", staticmethod(_forget)),
)


@contextlib.contextmanager
def local_data() -> Iterator[None]:
    """Datasets that are made and executed in the `with` block do without those actors."""
    with contextlib.ExitStack() as stack:
        for owner, name, instead in _IN_PLACE:
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, instead)
        yield
