"""Where the anonymizing actors of a run work: on which device, how many, and what Ray reserves for each.

Decided from the machines of the cluster once the run is connected to it; the driver may be another, smaller machine. A device
or a reservation that no machine can give is refused here, because Ray would wait for it for ever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError
from keyanon_core.procedure import EMBEDDED

MAX_ACTORS_OF_A_MACHINE: Final = 8
"""Anonymizing actors on the CPUs of one machine when their number is left to us: each holds the prior, about 1 GB with torch."""

MAX_ACTORS_OF_A_GPU: Final = 8
"""Anonymizing actors that share a GPU: with the embedded prior a face takes a GPU a few milliseconds and a CPU some hundred, so
that one actor would leave it idle. Each takes about 1 GB of it, most for CUDA itself."""

ACTORS_OF_A_DETECTOR: Final = 4
"""Anonymizing actors that one detecting actor serves when the number of those is left to us: a portrait takes it a tenth of what
it takes them, a large picture with small faces a third."""

READING_CPUS: Final = 1  # logical CPUs that actors must leave, so that reading and publishing find one
FIRST_CPUS: Final = 1  # really there ones that loading actors leave to all else that the first pictures need


@dataclass(frozen=True)
class Machine:
    """One of the cluster. cpus, gpus: logical ones, that Ray shares out. usable_cpus: those that are really there."""

    cpus: float
    gpus: float
    usable_cpus: float


@dataclass(frozen=True)
class Placement:
    """device: as torch names it in the process of an actor: "cpu", "cuda" or "cuda:N". actors: anonymizing ones. threads, cpus,
    gpus: of each; the last two are what Ray reserves for it.
    """

    device: str
    actors: int
    threads: int
    cpus: float
    gpus: float

    @classmethod
    def of(cls, config: AnonymizeConfig, machines: Sequence[Machine]) -> Self:
        """What the settings ask for. Where they leave it open: on GPUs an actor for each CPU beside them with the embedded prior,
        one for each GPU with a prior of unknown size; without GPUs an actor for each CPU.

        Raises:
            ConfigError: the cluster has no such device, or could never start so many actors.
        """
        device, gpus = _device(config, machines)
        actors = config.anonymizer_actors or _actors(device, gpus, machines)
        placement = cls(
            device=device,
            actors=actors,
            threads=config.threads_per_actor or max(int(sum(one.usable_cpus for one in machines)) // actors, 1),
            cpus=config.cpus_per_actor,
            gpus=gpus,
        )
        placement._check(config, machines)
        return placement

    def _check(self, config: AnonymizeConfig, machines: Sequence[Machine]) -> None:
        """Raise ConfigError where Ray would wait for ever."""
        fitting = sum(min(_times(one.gpus, self.gpus), _times(one.cpus, self.cpus)) for one in machines)
        if fitting < self.actors:
            raise ConfigError(
                f"{self.actors} anonymizing actor(s) of {self.cpus:g} CPU(s) and {self.gpus:g} GPU(s) were asked for, and the "
                f"cluster can hold {int(fitting)}; change anonymizer_actors, cpus_per_actor or gpus_per_actor"
            )
        there = sum(one.cpus for one in machines)
        reserved = (detectors(config, self.actors, there) + self.actors) * self.cpus
        if self.cpus and reserved + READING_CPUS > there:
            raise ConfigError(
                f"the actors would reserve {reserved:g} of the cluster's {there:g} CPUs, and none would be left to read; lower "
                "cpus_per_actor, anonymizer_actors or detector_actors"
            )


def reserved_cpus(config: AnonymizeConfig, usable: int) -> float:
    """Logical CPUs that a run's actors hold on a cluster of this machine alone, whose CPUs are `usable`."""
    actors = config.anonymizer_actors or _on_cpus(usable)
    return (detectors(config, actors) + actors) * config.cpus_per_actor


def detectors(config: AnonymizeConfig, actors: int, cpus: float | None = None) -> int:
    """Detecting actors beside so many anonymizing ones. cpus: logical ones of the cluster, None where it is made large enough;
    where the number is left to us, no more than those leave room for, but one."""
    wanted = -(-actors // ACTORS_OF_A_DETECTOR)
    if cpus is None:
        return config.detector_actors or wanted
    room = _times(cpus - READING_CPUS, config.cpus_per_actor) - actors
    return config.detector_actors or int(max(min(wanted, room), 1))


def loading_at_once(machines: Sequence[Machine]) -> int:
    """Anonymizing actors that may load before anything is visible. An actor for each CPU would load at the cost of those that
    read, find, write, and of one another: so the first pictures wait, and nothing ends sooner."""
    return max(int(sum(one.usable_cpus for one in machines)) - FIRST_CPUS, 1)


def _device(config: AnonymizeConfig, machines: Sequence[Machine]) -> tuple[str, float]:
    """The device, and how many GPUs an actor reserves. Raises ConfigError."""
    most = max((one.gpus for one in machines), default=0.0)
    if config.device == "cpu" or (config.device == "auto" and not most and not config.gpus_per_actor):
        if config.gpus_per_actor:
            raise ConfigError("gpus_per_actor reserves GPUs that device cpu does not use; leave one of them out")
        return "cpu", 0.0
    if not most:
        raise ConfigError(
            f"device {config.device} was asked for, and no machine of the cluster has a GPU; give device cpu, or RAY_ADDRESS "
            "of a cluster with GPUs"
        )
    if config.device in ("auto", "cuda"):
        return "cuda", _share(config, machines) if config.gpus_per_actor is None else config.gpus_per_actor
    # A process for which Ray reserves a GPU sees that one alone, as cuda:0: who names one, reserves none.
    number = int(config.device.partition(":")[2])
    if config.gpus_per_actor:
        raise ConfigError(
            f"Ray chooses the GPU that it reserves: with gpus_per_actor give device cuda, not {config.device}"
        )
    if len(machines) > 1 or number >= most:
        raise ConfigError(
            f"device {config.device} is a GPU of one machine, and the cluster has {len(machines)} with up to {most:g}; "
            "give device cuda"
        )
    return config.device, 0.0


def _share(config: AnonymizeConfig, machines: Sequence[Machine]) -> float:
    """Of a GPU, for an actor, where neither is said nor how many there are."""
    if config.prior != EMBEDDED or config.anonymizer_actors:
        return 1.0
    cpus = min(one.usable_cpus / one.gpus for one in machines if one.gpus)
    return 1 / min(max(int(cpus), 1), MAX_ACTORS_OF_A_GPU)


def _actors(device: str, gpus: float, machines: Sequence[Machine]) -> int:
    if device == "cpu":
        return max(sum(_on_cpus(one.usable_cpus) for one in machines), 1)
    return max(sum(int(_times(one.gpus, gpus)) for one in machines), 1) if gpus else 1


def _on_cpus(usable: float) -> int:
    return min(int(usable), MAX_ACTORS_OF_A_MACHINE)


def _times(there: float, wanted: float) -> float:
    """How often `wanted` can be taken of what is there; thirds add up to a whole."""
    return math.floor(there / wanted + 1e-6) if wanted else math.inf
