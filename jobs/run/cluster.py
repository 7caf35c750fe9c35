"""A Ray cluster for a run: the one that is there, else a quiet local one."""

import contextlib
import logging
import math
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import worker as ray_worker
from ray.data import DataContext
from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException
from ray.util.annotations import RayDeprecationWarning

from jobs.config import DEFAULT_START_SECONDS, AnonymizeConfig
from jobs.errors import ConfigError, DefectError, MachineError
from jobs.faults import FaultKind, describe, kind_of
from jobs.run.local_data import local_data
from jobs.run.local_node import local_nodes
from jobs.run.placement import Machine, Placement
from jobs.run.pools import PoolWatch
from jobs.run.progress import Monitor
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.errors import KeyanonError
from keystore.errors import KeystoreError
from keystore.intake.folder import INBOX_NAME

ADDRESS_VARIABLE: Final = "RAY_ADDRESS"
TOKEN_PATH_VARIABLE: Final = "RAY_AUTH_TOKEN_PATH"  # noqa: S105  the name of a variable
CREATION_FAILED: Final = "an error raised in its creation task"  # as Ray says it of an actor whose constructor raised
SPARE_CPUS: Final = 2  # logical CPUs beside the reserved ones, so that reading and publishing always find one
POLL_SECONDS: Final = 1.0
# To which Ray fills up the blocks of a row group of Parquet before they are cut into tasks; a process holds two or three times as
# much meanwhile. Larger than a block of results is wont to be, see `TASK_BYTES`: beyond it those are split.
BLOCK_BYTES: Final = 64 * 1024 * 1024
DEFAULT_OBJECT_STORE_BYTES: Final = 512 * 1024 * 1024  # of a local cluster; blocks hold encoded pictures, not arrays


@contextlib.contextmanager
def ray_cluster(
    reserved_cpus: float, object_store_bytes: int | None = None, patience: float = DEFAULT_START_SECONDS
) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or start a local one; leave one that was there already as it was.

    reserved_cpus: logical CPUs that the actors of the job hold until it ends. patience: seconds, of what `PoolWatch` bears.

    Raises:
        MachineError: no cluster could be reached or started.
    """
    if ray.is_initialized():
        with _data_settings(patience):
            yield
        return
    with contextlib.ExitStack() as stack:
        try:
            _start(stack, reserved_cpus, object_store_bytes)
        # Ray raises the base class itself where a machine is too busy to start a node in time.
        except Exception as error:
            place = os.environ.get(ADDRESS_VARIABLE, "a local cluster")
            raise MachineError(f"Ray could not be started ({place}): {error}") from error
        stack.callback(ray.shutdown)
        with _data_settings(patience):
            yield


def _start(stack: contextlib.ExitStack, reserved_cpus: float, object_store_bytes: int | None) -> None:
    if os.environ.get(ADDRESS_VARIABLE):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's C++ side writes warnings about its own actors to the user's terminal; failures reach Python as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray calls a stage from a second thread, whose own heap glibc gives back and faults in again for each face.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    _give_token_a_home(stack)
    cpus = max(usable_cpus(), math.ceil(reserved_cpus) + SPARE_CPUS)
    with local_nodes():
        ray.init(
            address="local",  # else Ray follows the address that a cluster left behind on this machine, a dead one too
            num_cpus=cpus,
            object_store_memory=object_store_bytes or DEFAULT_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    stack.enter_context(local_data())


def _give_token_a_home(stack: contextlib.ExitStack) -> None:
    """Ray protects a new cluster with a token file in the home directory; where that is read-only, keep it in a private
    directory."""
    if TOKEN_PATH_VARIABLE in os.environ or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE"):
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except (OSError, RuntimeError):
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix="keyanon-ray-"))
        path = Path(private) / "auth_token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")
        os.environ[TOKEN_PATH_VARIABLE] = str(path)
        stack.callback(os.environ.pop, TOKEN_PATH_VARIABLE, None)


def machines() -> list[Machine]:
    """The machines of the connected cluster that are alive."""
    here = ray.get_runtime_context().get_node_id()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            cpus, gpus, memory = (float(node["Resources"].get(name, 0.0)) for name in ("CPU", "GPU", "memory"))
            # A local cluster is given more logical CPUs than there are: see `SPARE_CPUS`.
            usable = min(cpus, usable_cpus()) if node["NodeID"] == here else cpus
            found.append(Machine(cpus, gpus, usable, memory))
    return found


def check_pseudonyms_are_near(config: AnonymizeConfig) -> None:
    """Raise ConfigError where workers on another machine would ask for the pseudonyms of a keystore on this one."""
    count = _addresses()
    if config.has_pseudonyms and config.keystore is not None and count > 1:
        raise ConfigError(
            f"the cluster has {count} machines, and keystore {config.keystore} answers for pseudonyms on its own alone; "
            "serve it and give ingest_key, inbox https://host:port and token_file instead"
        )


def keystore_on_several(config: AnonymizeConfig) -> str | None:
    """What is to be said where workers on another machine hand their keys in at a keystore's directory; None where none does."""
    count = _addresses()
    if config.keystore is None or count < 2:
        return None
    beside = " and the KEK, which opens every key" if config.kek is None else ""
    return (
        f"the cluster has {count} machines, whose workers all write into {config.keystore}/{INBOX_NAME}: each must have that "
        f"directory mounted, and with it the keystore's database{beside}, on machines that see pictures; give ingest_key and "
        "inbox instead, which show them no keystore"
    )


def _addresses() -> int:
    """How many machines the connected cluster has now; several of its nodes may be on one."""
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def joining() -> bool:
    """True for a cluster of somebody's, whose machines may come and go; a local one is all that there will be."""
    return bool(os.environ.get(ADDRESS_VARIABLE))


def await_placement(config: AnonymizeConfig) -> tuple[list[Machine], Placement]:
    """The machines of the connected cluster, and where the run's actors work on them.

    Raises:
        ConfigError: a setting is to be changed.
        MachineError: for `config.start_seconds` no machine was there that could take one.
    """
    deadline = time.monotonic() + config.start_seconds
    while True:
        there = machines()
        try:
            return there, Placement.of(config, there, joining=joining())
        except MachineError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _data_settings(patience: float) -> Iterator[None]:
    """Ray Data without bars, banners and warnings about its own future: progress is `jobs.run.progress`'s business, stdout the
    command's, and the named parameters that Ray 2.60 asks for in place of `ray_remote_args` have none for retries."""
    context: Any = DataContext.get_current()
    quiet = {"enable_progress_bars": False, "print_on_execution_start": False, "enable_rich_progress_bars": False}
    watched = [*context.custom_execution_callback_classes, partial(PoolWatch, patience, set[str]())]
    chosen = {**quiet, "target_max_block_size": BLOCK_BYTES, "custom_execution_callback_classes": watched}
    before = {name: getattr(context, name) for name in chosen}
    prints = ray_worker._worker_logs_enabled
    data_logger = logging.getLogger("ray.data")
    level = data_logger.level
    try:
        for name, value in chosen.items():
            setattr(context, name, value)
        # Ray prints to stdout what it says of processes that died, whatever `log_to_driver` says.
        ray_worker._worker_logs_enabled = False
        data_logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", category=RayDeprecationWarning)
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        ray_worker._worker_logs_enabled = prints
        data_logger.setLevel(level)


def reported_cause(error: BaseException, monitor: Monitor, work: str) -> Exception:
    """The error that a worker reported before it ended `work`; else `cause_of` what Ray says."""
    try:
        failure = monitor.failure()
    except RayError as gone:  # whatever the workers met then, they met because of that
        return MachineError(
            f"the machine that counts what the {work} does was lost ({type(gone).__name__}); run the same command again to go on"
        )
    return failure or cause_of(error, work)


@contextlib.contextmanager
def explaining(monitor: Monitor, work: str) -> Iterator[None]:
    """Around the reading of a pipeline's blocks: why there are no more. Raises JobError, and what a worker reported."""
    try:
        yield
    except RayError as error:
        raise reported_cause(error, monitor, work) from error


def cause_of(error: BaseException, work: str) -> Exception:
    """What ended `work`, out of Ray's wrappings: the error that a worker raised on purpose; a DefectError for one that
    nobody did; else a MachineError that says what Ray says."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    defect: BaseException | None = None
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, KeyanonError | KeystoreError) and not isinstance(current, RayError):
            return current
        if isinstance(current, RayTaskError) and _is_defect(current.cause):
            defect = current.cause
        by_worker = getattr(current, "worker_failures", None)  # Ray Train keeps them apart from the chain of causes
        pending += list(by_worker.values()) if isinstance(by_worker, dict) else []
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
    if defect is not None:
        return DefectError(
            f"a defect ended the {work} ({describe(defect)}); run again with -v and report what it prints"
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ActorDiedError) and CREATION_FAILED in str(error):  # Ray keeps the text of such an error only
        raised = lines[-1].split(":")[0]
        return DefectError(f"a defect ended the {work} ({raised} where a worker begins); report it with Ray's logs")
    return MachineError(
        f"Ray ended the {work} ({type(error).__name__}: {lines[-1] if lines else ''}); run the same command again to go on"
    )


def _is_defect(raised: BaseException | None) -> bool:
    """True for what a task raised of itself, which is no fault of the machine."""
    if isinstance(raised, RayError):
        return isinstance(raised, UserCodeException)
    return raised is not None and kind_of(raised) is not FaultKind.MACHINE
