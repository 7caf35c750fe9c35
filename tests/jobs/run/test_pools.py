"""Pools of processes on a cluster whose machines are busy, are not there yet, join, or die and stay away."""

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from jobs.errors import MachineError
from jobs.run.pools import TASKS_IN_FLIGHT, Pool, PoolWatch

SECONDS = 400  # for a cluster to start, run and end, where it takes 40

ON_A_CLUSTER = """
import json, os, sys, threading, time
from pathlib import Path
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
import jobs.run.anonymize
from jobs.run.anonymize_stage import _quarantined
from jobs.blocks import FACES, ID, KEPT_FACES, PERMANENT, ROW, with_results
from jobs.config import AnonymizeConfig
from jobs.exit_codes import exit_code_of
from jobs.output.manifest import read_existing
from jobs.storage.opening import open_store
from keyanon_core.errors import KeyanonError


class Finds:
    def __init__(self, **_):
        pass

    def __call__(self, table):
        nothing = pa.nulls(table.num_rows, pa.large_string())
        return table.append_column(FACES, nothing).append_column(KEPT_FACES, nothing)


class Sleeps:
    def __init__(self, *, monitor, **_):
        context = ray.get_runtime_context()
        monitor.report_facts({"prior": {"digest": "x"}, "how": context.get_actor_id()})
        Path(f"{out}-began").touch()
        self.monitor, self.memory = monitor, context.get_assigned_resources()["memory"]

    def __call__(self, table):
        time.sleep(1)
        deadline = time.monotonic() + 120
        while Path(out + "-wait").exists() and len(self.monitor.facts()) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        rows = table.select([ROW, ID, PERMANENT]).to_pylist()
        return with_results(table, [_quarantined({**row, PERMANENT: False}, f"{self.memory / 1024**3:g}_gib: x") for row in rows])


@ray.remote(num_cpus=2)
class Other:
    def holds(self):
        return True


photos, out = sys.argv[1:]
shared = {"object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
cluster = Cluster()
cluster.add_node(num_cpus=0, **shared)
os.environ["RAY_ADDRESS"] = cluster.address
jobs.run.anonymize.DetectFaces, jobs.run.anonymize.AnonymizeFaces = Finds, Sleeps
given = {"photos": photos, "keys": "discard", "pictures_per_task": 1, "cpus_per_actor": 1, "anonymizer_actors": 3}
said = {}


def run(name, seconds):
    def watch(state):
        if state.fresh_rows:
            Path(f"{out}-{name}-visible").touch()
    try:
        config = AnonymizeConfig.load(None, {**given, "output": f"{out}-{name}", "start_seconds": seconds})
        report = jobs.run.anonymize.run_anonymize(config, watch)
        facts = read_existing(open_store(Path(config.output))).facts
        said[name] = [report.rows, len(facts), next(iter(report.reasons))]
    except KeyanonError as error:
        said[name] = [int(exit_code_of(error)), type(error).__name__, str(error)]


def meanwhile(name, seconds, seen, act):
    running = threading.Thread(target=run, args=(name, seconds))
    running.start()
    while running.is_alive() and not Path(seen).exists():
        time.sleep(0.5)
    act()
    running.join()


try:
    run("missing", 1)
    node = cluster.add_node(num_cpus=3, **shared)
    ray.init(log_to_driver=False)
    other = Other.remote()
    ray.get(other.holds.remote())
    run("busy", 5)
    ray.kill(other)
    Path(out + "-wait").touch()
    Path(out + "-began").unlink(missing_ok=True)
    meanwhile("joins", 300, f"{out}-began", lambda: cluster.add_node(num_cpus=3, **shared))
    Path(out + "-wait").unlink()
    for one in list(cluster.worker_nodes - {node}):
        cluster.remove_node(one)
    meanwhile("dies", 60, f"{out}-dies-visible", lambda: cluster.remove_node(node, allow_graceful=False))
    print(json.dumps(said))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, faceless_png: bytes) -> dict[str, list[object]]:
    """What became of each run."""
    folder = tmp_path_factory.mktemp("pools")
    (folder / "photos").mkdir()
    for number in range(30):
        (folder / "photos" / f"{number}.png").write_bytes(faceless_png)
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_CLUSTER, str(folder / "photos"), str(folder / "out")],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, list[object]] = json.loads(next(line for line in ended.stdout.splitlines() if line[:1] == "{"))
    return found


def test_a_pool_never_gives_back_what_it_begins_with() -> None:
    strategy = Pool(2, 5).strategy()
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (2, 2, 5)
    assert strategy.max_tasks_in_flight_per_actor == TASKS_IN_FLIGHT
    assert Pool(2, 1).strategy().max_size == 2


@pytest.mark.parametrize(("waiting", "growing", "ends"), [(0, 0, False), (1, 1, False), (1, 0, True), (2, 1, True)])
def test_slow_reading_ends_no_run_and_tasks_that_find_no_place_do(
    monkeypatch: pytest.MonkeyPatch, waiting: int, growing: int, ends: bool
) -> None:
    monkeypatch.setattr("jobs.run.pools._without_a_place", lambda: waiting)
    monkeypatch.setattr("jobs.run.pools._there", lambda: "the cluster has machines")
    idle = {
        "num_running_actors": 1,
        "num_restarting_actors": 0,
        "num_tasks_in_flight": 0,
        "num_pending_actors": growing,
        "min_size": 1,
    }
    pool = SimpleNamespace(**{name: lambda count=count: count for name, count in idle.items()})
    stage = SimpleNamespace(
        id="1", has_execution_finished=lambda: False, get_autoscaling_actor_pools=lambda: [pool],
        metrics=SimpleNamespace(num_task_outputs_generated=1),
    )  # fmt: skip
    watch, executor = PoolWatch(-1, set()), cast("StreamingExecutor", SimpleNamespace(_topology=[stage]))
    watch.on_execution_step(executor)
    with pytest.raises(MachineError, match="tasks wait for a place") if ends else contextlib.nullcontext():
        watch.on_execution_step(executor)


@pytest.mark.parametrize(
    ("running", "restarting", "ends_soon", "says"),
    [(3, 0, False, None), (2, 0, False, "2 of 3"), (3, 1, False, "2 of 3"), (2, 0, True, None)],
)
def test_a_pool_that_stays_smaller_than_it_should_is_told_of_once_in_a_run(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    running: int,
    restarting: int,
    ends_soon: bool,
    says: str | None,
) -> None:
    monkeypatch.setattr("jobs.run.pools._there", lambda: "the cluster has machines")
    counts = {
        "num_running_actors": running,
        "num_restarting_actors": restarting,
        "num_tasks_in_flight": 1,
        "min_size": 3,
    }
    pool = SimpleNamespace(
        **{name: lambda count=count: count for name, count in counts.items()},
        per_actor_resource_usage=lambda: SimpleNamespace(cpu=1, gpu=0.5, memory=0),
    )
    told: set[str] = set()
    for execution in range(2):
        stage = SimpleNamespace(
            id=str(execution), name="Anonymize", has_execution_finished=lambda: False, _inputs_complete=ends_soon,
            get_autoscaling_actor_pools=lambda: [pool], metrics=SimpleNamespace(num_task_outputs_generated=1),
        )  # fmt: skip
        executor = cast("StreamingExecutor", SimpleNamespace(_topology=[stage]))
        patient, watch = PoolWatch(600, told), PoolWatch(-1, told)
        for one in (patient, patient, watch, watch, watch):
            one.on_execution_step(executor)
    if says is None:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert f"{says} processes of Anonymize" in message and "one needs 1 CPU(s), 0.5 GPU(s)" in message


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ("missing", ["the cluster can hold 0"]),
        ("busy", ["for 5 s", "2 machine(s) have 3 CPU(s)"]),
        ("dies", ["was ready for 60 s; one needs 1 CPU(s)", "1 machine(s) have 0 CPU(s)"]),
    ],
)  # fmt: skip
def test_a_run_without_machines_ends_as_one_to_be_tried_again_and_says_what_is_missing(
    said: dict[str, list[object]], scene: str, says: list[str]
) -> None:
    code, kind, text = said[scene]
    assert (code, kind) == (75, "MachineError"), text
    assert all(part in str(text) for part in says), text


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_a_run_begins_on_what_is_there_and_grows_on_machines_that_join(said: dict[str, list[object]]) -> None:
    rows, processes, reason = said["joins"]
    assert rows == 30 and isinstance(processes, int) and processes > 1, (
        "one began, as one CPU was to be left for finding and one for reading"
    )
    assert reason == "1_gib", "what Ray reserved for it"
