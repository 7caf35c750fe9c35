"""The pools of processes that a stage runs on: how large they are, and what becomes of a run whose pool stays empty.

Ray Data starts what a pool begins with, adds to it while there is more to do and the cluster has room, and waits, for ever if
need be, for processes that no machine can take: while another job holds the CPUs, or after a machine with a GPU died. It can
wait for a pool at the start (`DataContext.wait_for_min_actors_s`), but reads nothing meanwhile and does not look again. So the
driver looks at its pools at each step, and ends the run.
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

import ray
from ray._private import worker as ray_worker
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.data import ActorPoolStrategy
from ray.data._internal.actor_autoscaler import AutoscalingActorPool
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import PhysicalOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from jobs.errors import MachineError

_LOGGER = logging.getLogger(__name__)
TASKS_IN_FLIGHT: Final = 2  # blocks queued at an actor: one in work, one ready
# Processes that may take one actor's place. `jobs.run.process_deaths` ends a run long before, unless rows are to blame or the
# processes die before they can say that they began.
PROCESS_RESTARTS: Final = 256
GIB: Final = 1024**3


@dataclass(frozen=True)
class Pool:
    """actors: it begins with. most: it may grow to, on machines that join. None is given back while there is work: it would load
    its models again."""

    actors: int
    most: int

    def strategy(self) -> ActorPoolStrategy:
        """For Ray Data."""
        most = max(self.actors, self.most)
        return ActorPoolStrategy(min_size=self.actors, max_size=most, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT)


class PoolWatch(ExecutionCallback):  # type: ignore[misc]  # Ray's code of this kind is not typed
    """Ends an execution in which a stage has had no process for too long, or for which nothing moved while tasks found no place.
    One that has fewer than it should begin with for as long goes on, which is said once.

    Slow work is none of its business: one file may be read or written for any time.
    """

    def __init__(self, patience: float, told: set[str]) -> None:
        """patience: seconds. told: names of stages of which it was said that they have too few, in all executions of a run."""
        self._patience, self._told = patience, told
        self._whole: dict[str, float] = {}  # when each pool last had as many as it should; by `time.monotonic`
        self._ready: dict[str, float] = {}  # when each pool last had a process that was ready; by `time.monotonic`
        self._moved, self._outputs = 0.0, -1

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Raises MachineError, which ends the execution: machines may be there when the command is run again."""
        now = time.monotonic()
        stages = [stage for stage in executor._topology or () if not stage.has_execution_finished()]
        pools = [(stage, pool) for stage in stages for pool in stage.get_autoscaling_actor_pools()]
        for stage, pool in pools:
            if pool.num_running_actors() > pool.num_restarting_actors():
                self._ready[stage.id] = now
            elif now - self._ready.setdefault(stage.id, now) > self._patience:
                raise MachineError(_unplaced(stage, pool, self._patience))
            self._tell(stage, pool, now)
        outputs = sum(stage.metrics.num_task_outputs_generated for stage in executor._topology or ())
        if outputs != self._outputs or any(pool.num_tasks_in_flight() for _, pool in pools):
            self._moved, self._outputs = now, outputs
        elif now - self._moved > self._patience and all(self._ready[stage.id] == now for stage, _ in pools):
            self._moved = now  # the cluster is asked once in a while
            if _without_a_place() > sum(pool.num_pending_actors() for _, pool in pools):
                raise MachineError(
                    f"for {self._patience:g} s nothing was read and nothing written, no process had work, and tasks wait for a "
                    f"place; {_there()}; run the same command again when other jobs have ended"
                )

    def _tell(self, stage: PhysicalOperator, pool: AutoscalingActorPool, now: float) -> None:
        """Say it where a pool has had fewer processes than it should begin with for too long. At the end Ray lets them go."""
        ready = pool.num_running_actors() - pool.num_restarting_actors()
        if ready >= pool.min_size() or stage._inputs_complete:
            self._whole[stage.id] = now
        elif now - self._whole.setdefault(stage.id, now) > self._patience and stage.name not in self._told and ready:
            self._told.add(stage.name)
            _LOGGER.warning(
                "%d of %d processes of %s are ready for %g s now, and the run goes on with them: %s",
                ready,
                pool.min_size(),
                stage.name,
                self._patience,
                _needs(pool),
            )


def _unplaced(stage: PhysicalOperator, pool: AutoscalingActorPool, patience: float) -> str:
    return (
        f"no process of {stage.name} was ready for {patience:g} s; {_needs(pool)}; run the same command again when machines "
        "have joined or other jobs have ended, or give more start_seconds where its models load for longer"
    )


def _needs(pool: AutoscalingActorPool) -> str:
    """What one more process needs, and what there is."""
    needs = pool.per_actor_resource_usage()
    return f"one needs {_amounts(needs.cpu, needs.gpu, needs.memory)}; {_there()}"


def _without_a_place() -> int:
    """How many tasks and actors of the cluster wait for a machine that can take them, those of other jobs among them."""
    state = get_cluster_resource_state(ray_worker.global_worker.gcs_client)
    return sum(int(waiting.count) for waiting in state.pending_resource_requests)


def _there() -> str:
    """What the cluster has, and what of it is free now."""
    whole, free = ray.cluster_resources(), ray.available_resources()
    has, left = ([float(of.get(name, 0.0)) for name in ("CPU", "GPU", "memory")] for of in (whole, free))
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    return f"the cluster's {machines} machine(s) have {_amounts(*has)}, of which {_amounts(*left)} are free"


def _amounts(cpus: float | None, gpus: float | None, memory: float | None) -> str:
    return f"{cpus or 0:g} CPU(s), {gpus or 0:g} GPU(s) and {(memory or 0) / GIB:.1f} GiB of memory"
