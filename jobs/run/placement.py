"""Where the anonymizing actors of a run work: on which device, how many, and what Ray reserves for each.

Decided from the machines of the cluster once the run is connected to it; the driver may be another, smaller machine. A device
or a reservation that no machine can give is refused here, because Ray would wait for it for ever. Where machines may still join
a cluster, a run begins with what it finds, as long as that is one process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, MachineError
from keyanon_core.procedure import EMBEDDED

MAX_ACTORS_OF_A_MACHINE: Final = 8
"""Anonymizing actors on the CPUs of one machine when their number is left to us: each holds the prior, about 1 GB with torch."""

MAX_ACTORS_OF_A_GPU: Final = 8
"""Anonymizing actors that share a GPU: with the embedded prior a face takes a GPU a few milliseconds and a CPU some hundred, so
that one actor would leave it idle. Each takes about 1 GB of it, most for CUDA itself."""

ACTORS_OF_A_DETECTOR: Final = 4
"""Anonymizing actors that one detecting actor serves when the number of those is left to us: a portrait takes it a tenth of what
it takes them, a large picture with small faces a third."""

MOST_ACTORS: Final = 4096
"""Of a pool that may grow and whose size is left to us: Ray starts no more than GPUs are found for."""

# What a process holds (docs/scale.md), and some more. With another prior than the embedded one an anonymizing one holds more.
ANONYMIZING_BYTES: Final = 1024**3
DETECTING_BYTES: Final = 256 * 1024**2
MEMORY_OF_BOTH: Final = ANONYMIZING_BYTES + DETECTING_BYTES

READING_CPUS: Final = 1  # logical CPUs that actors must leave, so that reading and publishing find one
FIRST_CPUS: Final = 1  # really there ones that loading actors leave to all else that the first pictures need


@dataclass(frozen=True)
class Machine:
    """One of the cluster. cpus, gpus, memory (bytes): logical, shared out by Ray. usable_cpus: those that are really there."""

    cpus: float
    gpus: float
    usable_cpus: float
    memory: float = math.inf


@dataclass(frozen=True)
class Placement:
    """device: as torch names it in the process of an actor: "cpu", "cuda" or "cuda:N". actors: anonymizing ones, as there is
    room. threads, cpus, gpus: of each; the last two are what Ray reserves for it. most: actors on what may join; None: no more.
    memory, detector_memory: bytes that Ray reserves for an anonymizing and a detecting one.
    """

    device: str
    actors: int
    threads: int
    cpus: float
    gpus: float
    most: int | None = None
    memory: int = ANONYMIZING_BYTES
    detector_memory: int = DETECTING_BYTES

    @classmethod
    def of(cls, config: AnonymizeConfig, machines: Sequence[Machine], *, joining: bool = False) -> Self:
        """What the settings ask for. Where they leave it open: on GPUs an actor for each CPU beside them with the embedded prior,
        one for each GPU with a prior of unknown size; without GPUs an actor for each CPU. Fewer where memory is short.

        joining: the cluster is somebody's whose machines may come and go; then fewer actors than asked for are a beginning.

        Raises:
            ConfigError: no cluster could do what is asked for; or this one has no such device or could never start so many
            actors, and no machines join it.
            MachineError: there is no such device, or no room for one actor, now.
        """
        missing = MachineError if joining else ConfigError
        device, gpus = _device(config, machines, missing)
        wanted = config.anonymizer_actors or _actors(device, gpus, machines)
        fitting = sum(min(_times(one.gpus, gpus), _times(one.cpus, config.cpus_per_actor)) for one in machines)
        if fitting < (1 if joining else wanted):
            raise missing(
                f"{wanted} anonymizing actor(s) of {config.cpus_per_actor:g} CPU(s) and {gpus:g} GPU(s) were asked for, and the "
                f"cluster can hold {int(fitting)}; change anonymizer_actors, cpus_per_actor or gpus_per_actor"
            )
        there = sum(one.cpus for one in machines)
        actors = int(min(wanted, fitting))
        while joining and actors > 1 and _reserved(config, actors, there) + READING_CPUS > there:
            actors -= 1
        reserved = _reserved(config, actors, there)
        if reserved and reserved + READING_CPUS > there:
            raise missing(
                f"the actors would reserve {reserved:g} of the cluster's {there:g} CPUs, and none would be left to read; lower "
                "cpus_per_actor, anonymizer_actors or detector_actors"
            )
        by_memory = int(min(sum(_times(one.memory, MEMORY_OF_BOTH) for one in machines), MOST_ACTORS))
        actors = min(actors, max(by_memory, 1))
        finding = detectors(config, actors, there) * DETECTING_BYTES
        room = actors * ANONYMIZING_BYTES + finding <= sum(one.memory for one in machines)
        most = config.anonymizer_actors or (MOST_ACTORS if joining and gpus else actors)
        return cls(
            device=device,
            actors=actors,
            threads=config.threads_per_actor or max(int(sum(one.usable_cpus for one in machines)) // actors, 1),
            cpus=config.cpus_per_actor,
            gpus=gpus,
            most=most if most > actors else None,
            # A machine too small for one works as well as it can, rather than not at all.
            memory=ANONYMIZING_BYTES if by_memory else 0,
            # Detecting ones begin first: as many as were asked for must not take what the others are to have.
            detector_memory=DETECTING_BYTES if by_memory and room else 0,
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


def _reserved(config: AnonymizeConfig, actors: int, cpus: float) -> float:
    """Logical CPUs of a cluster of `cpus` that so many anonymizing actors and those that serve them hold."""
    return (detectors(config, actors, cpus) + actors) * config.cpus_per_actor


def loading_at_once(machines: Sequence[Machine]) -> int:
    """Anonymizing actors that may load before anything is visible. An actor for each CPU would load at the cost of those that
    read, find, write, and of one another: so the first pictures wait, and nothing ends sooner."""
    return max(int(sum(one.usable_cpus for one in machines)) - FIRST_CPUS, 1)


def _device(
    config: AnonymizeConfig, machines: Sequence[Machine], missing: type[ConfigError | MachineError]
) -> tuple[str, float]:
    """The device, and how many GPUs an actor reserves. Raises ConfigError, `missing` where no machine has a GPU."""
    most = max((one.gpus for one in machines), default=0.0)
    if config.device == "cpu" or (config.device == "auto" and not most and not config.gpus_per_actor):
        if config.gpus_per_actor:
            raise ConfigError("gpus_per_actor reserves GPUs that device cpu does not use; leave one of them out")
        return "cpu", 0.0
    if not most:
        raise missing(
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
    return math.floor(there / wanted + 1e-6) if wanted and there < math.inf else math.inf
