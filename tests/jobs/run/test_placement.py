"""Where actors work, by the machines of a cluster; and, on a cluster that declares two GPUs, that Ray gives each its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, MachineError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.run.placement import (
    ANONYMIZING_BYTES,
    DETECTING_BYTES,
    MAX_ACTORS_OF_A_MACHINE,
    MEMORY_OF_BOTH,
    MOST_ACTORS,
    Machine,
    Placement,
    detectors,
    loading_at_once,
    reserved_cpus,
)

PLACES = {"photos": "p", "output": "o", "keystore": "k"}
LAPTOP = [Machine(cpus=4, gpus=0, usable_cpus=2)]
GPU_MACHINE = Machine(cpus=16, gpus=2, usable_cpus=16)
MIXED = [Machine(cpus=0, gpus=0, usable_cpus=0), GPU_MACHINE, GPU_MACHINE, Machine(64, 0, 64)]
SECONDS = 400  # for a cluster to start, run and end, where it takes 20


def placed(machines: list[Machine], **settings: object) -> Placement:
    return Placement.of(AnonymizeConfig.load(None, {**PLACES, **settings}), machines)


def test_without_a_gpu_each_cpu_that_is_really_there_gets_an_actor_up_to_a_limit_for_each_machine() -> None:
    assert placed(LAPTOP) == Placement(device="cpu", actors=2, threads=1, cpus=0, gpus=0)
    assert placed(MIXED, device="cpu").actors == 3 * MAX_ACTORS_OF_A_MACHINE
    assert placed([Machine(1, 0, 0.5)]).actors == 1


def test_loading_actors_leave_a_cpu_to_all_else_that_the_first_pictures_need() -> None:
    assert loading_at_once(LAPTOP) == 1
    assert loading_at_once([Machine(1, 0, 0.5)]) == 1
    assert loading_at_once(MIXED) == 16 + 16 + 64 - 1


def test_each_gpu_of_the_cluster_gets_an_actor_that_reserves_it() -> None:
    for device in ("auto", "cuda"):
        found = placed(MIXED, device=device, prior="of/ones-own")
        assert found == Placement(device="cuda", actors=4, threads=24, cpus=0, gpus=1)
    assert placed(MIXED, gpus_per_actor=0.5).actors == 8
    assert placed(MIXED, anonymizer_actors=3, threads_per_actor=5) == Placement("cuda", 3, 5, 0, 1)


@pytest.mark.parametrize(("cpus", "gpus", "of_each"), [(16, 2, 8), (64, 2, 8), (6, 2, 3), (7, 2, 3), (2, 4, 1)])
def test_actors_with_the_embedded_prior_share_a_gpu_as_far_as_there_are_cpus(
    cpus: int, gpus: int, of_each: int
) -> None:
    machine = Machine(cpus=cpus, gpus=gpus, usable_cpus=cpus)
    expected = Placement("cuda", of_each * gpus, max(cpus // (of_each * gpus), 1), 0, 1 / of_each)
    assert placed([machine, Machine(8, 0, 8)], threads_per_actor=expected.threads) == expected
    assert placed([machine], anonymizer_actors=1).gpus == 1, "who says how many knows what each takes"
    assert placed([machine], gpus_per_actor=1).actors == gpus


def test_who_reserves_no_gpu_shares_the_one_that_torch_takes() -> None:
    assert placed([GPU_MACHINE], device="cuda", gpus_per_actor=0) == Placement("cuda", 1, 16, 0, 0)
    assert placed([GPU_MACHINE], device="cuda:1") == Placement("cuda:1", 1, 16, 0, 0)


@pytest.mark.parametrize(
    ("machines", "settings", "named"),
    [
        (LAPTOP, {"device": "cuda"}, "no machine of the cluster has a GPU"),
        (LAPTOP, {"gpus_per_actor": 1}, "no machine of the cluster has a GPU"),
        (LAPTOP, {"device": "cpu", "gpus_per_actor": 1}, "leave one of them out"),
        (MIXED, {"anonymizer_actors": 5}, "can hold 4"),
        (MIXED, {"gpus_per_actor": 3}, "can hold 0"),
        (MIXED, {"device": "cuda:1"}, "a GPU of one machine"),
        ([GPU_MACHINE], {"device": "cuda:2"}, "a GPU of one machine"),
        ([GPU_MACHINE], {"device": "cuda:0", "gpus_per_actor": 1}, "Ray chooses"),
        (LAPTOP, {"cpus_per_actor": 5}, "can hold 0"),
        (LAPTOP, {"cpus_per_actor": 2, "anonymizer_actors": 2}, "none would be left to read"),
    ],
)
def test_what_ray_would_wait_for_for_ever_is_refused(
    machines: list[Machine], settings: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        placed(machines, **settings)


def test_a_local_cluster_is_made_large_enough_for_what_all_actors_hold() -> None:
    for settings in ({}, {"anonymizer_actors": 3}):
        config = AnonymizeConfig.load(None, {**PLACES, "detector_actors": 2, "cpus_per_actor": 1.5, **settings})
        reserved = reserved_cpus(config, usable=3)
        assert reserved == 7.5
        Placement.of(config, [Machine(cpus=reserved + 2, gpus=0, usable_cpus=3)])


def test_where_machines_may_join_a_run_begins_with_what_there_is_room_for_and_what_lacks_may_come() -> None:
    def joined(machines: list[Machine], **settings: object) -> Placement:
        return Placement.of(AnonymizeConfig.load(None, {**PLACES, **settings}), machines, joining=True)

    one_cpu_each = {"cpus_per_actor": 1, "anonymizer_actors": 8}
    begun = joined([Machine(4, 0, 4)], **one_cpu_each)
    assert (begun.actors, begun.most) == (2, 8), "a CPU is left to find faces, and one to read"
    whole = joined([Machine(4, 0, 4)] * 4, **one_cpu_each)
    assert (whole.actors, whole.most) == (8, None)
    on_gpus = joined([GPU_MACHINE], device="cuda", prior="of/ones-own")
    assert (on_gpus.actors, on_gpus.most) == (2, MOST_ACTORS)
    for machines, settings in (
        ([Machine(0, 0, 0)], one_cpu_each),
        ([Machine(2, 0, 2)], one_cpu_each),
        ([Machine(8, 0, 8)], {"device": "cuda"}),
    ):
        with pytest.raises(MachineError) as caught:
            joined(machines, **settings)
        assert exit_code_of(caught.value) is ExitCode.TRY_AGAIN


def test_actors_are_no_more_than_the_memory_of_the_machines_holds() -> None:
    assert placed([Machine(8, 0, 8, memory=3.5 * MEMORY_OF_BOTH)]).actors == 3
    small = placed([Machine(8, 0, 8, memory=0)])
    assert (small.actors, small.memory, small.detector_memory) == (1, 0, 0), "a small machine does what it can"
    asked = placed([Machine(8, 0, 8, memory=3.5 * MEMORY_OF_BOTH)], anonymizer_actors=8)
    assert (asked.actors, asked.most) == (3, 8)


def test_detecting_actors_that_were_asked_for_leave_memory_for_an_anonymizing_one() -> None:
    machine = Machine(8, 0, 8, memory=2 * ANONYMIZING_BYTES)
    assert placed([machine]).detector_memory == placed([machine], detector_actors=4).detector_memory == DETECTING_BYTES
    many = placed([machine], detector_actors=8)  # which would take all of it
    assert (many.actors, many.memory, many.detector_memory) == (1, ANONYMIZING_BYTES, 0)


@pytest.mark.parametrize(
    ("asked", "actors", "of_them"), [(0, 1, 1), (0, 4, 1), (0, 5, 2), (0, 64, 16), (3, 1, 3), (3, 64, 3)]
)
def test_detecting_actors_grow_with_those_that_they_serve_unless_their_number_is_given(
    asked: int, actors: int, of_them: int
) -> None:
    settings = {"detector_actors": asked, "anonymizer_actors": actors, "cpus_per_actor": 1}
    config = AnonymizeConfig.load(None, {**PLACES, **settings})
    assert detectors(config, actors) == of_them
    needed = float(actors + of_them + 1)  # a CPU is left to read
    assert detectors(config, actors, needed) == of_them
    assert placed([Machine(needed, 0, needed)], **settings).actors == actors
    assert detectors(config, actors, needed - 1) == (asked or max(of_them - 1, 1)), "a cluster that is full takes fewer"
    least = float(actors + (asked or 1) + 1)
    assert placed([Machine(least, 0, least)], **settings).actors == actors
    with pytest.raises(ConfigError, match="none would be left to read"):
        placed([Machine(least - 0.5, 0, least)], **settings)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:1", "auto:0", "cuda:x"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        AnonymizeConfig.load(None, {**PLACES, "device": device})


ON_TWO_GPUS = """
import json, os, sys
from pathlib import Path
import pyarrow as pa
import ray
import jobs.run.anonymize
from jobs.run.anonymize_stage import _quarantined
from jobs.blocks import FACES, ID, KEPT_FACES, PERMANENT, ROW, with_results
from jobs.run.cluster import machines
from jobs.config import AnonymizeConfig
from jobs.errors import MachineError
from jobs.output.manifest import read_existing
from jobs.storage.opening import open_store
from keyanon_core.errors import DeviceError


class Finds:  # nothing, and at once: where little patience is had with processes, none is to load a detector
    def __init__(self, **_):
        pass

    def __call__(self, table):
        nothing = pa.nulls(table.num_rows, pa.large_string())
        return table.append_column(FACES, nothing).append_column(KEPT_FACES, nothing)


class OnItsDevice:
    def __init__(self, *, compute, monitor, **_):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        how = [compute.device, visible, compute.precision, compute.compiled]
        monitor.report_facts({"prior": {"digest": "x"}, "how": how})

    def __call__(self, table):
        rows = table.select([ROW, ID, PERMANENT]).to_pylist()
        return with_results(table, [_quarantined({**row, PERMANENT: False}, "here: x") for row in rows])


@ray.remote(num_gpus=1, num_cpus=0)
class Other:
    def holds(self):
        return True


photos, out = sys.argv[1:]
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
said = {"gpus": [machine.gpus for machine in machines()]}
settings = {"photos": photos, "keys": "discard", "pictures_per_task": 1}
real, detects = jobs.run.anonymize.AnonymizeFaces, jobs.run.anonymize.DetectFaces
jobs.run.anonymize.AnonymizeFaces = OnItsDevice
jobs.run.anonymize.run_anonymize(AnonymizeConfig.load(None, {**settings, "output": out, "precision": "tf32", "compile": True}))
said["facts"] = [fact["how"] for fact in read_existing(open_store(Path(out))).facts]
other = Other.remote()
ray.get(other.holds.remote())
jobs.run.anonymize.run_anonymize(AnonymizeConfig.load(None, {**settings, "output": out + "-1"}))
said["beside another"] = len(read_existing(open_store(Path(out + "-1"))).facts)
second = Other.remote()
ray.get(second.holds.remote())
jobs.run.anonymize.DetectFaces = Finds
try:
    jobs.run.anonymize.run_anonymize(AnonymizeConfig.load(None, {**settings, "output": out + "-3", "start_seconds": 15}))
except MachineError as error:
    said["busy"] = str(error)
ray.kill(other)
ray.kill(second)
jobs.run.anonymize.AnonymizeFaces, jobs.run.anonymize.DetectFaces = real, detects
try:
    jobs.run.anonymize.run_anonymize(AnonymizeConfig.load(None, {**settings, "output": out + "-2"}))
except DeviceError as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


@pytest.mark.slow
def test_each_actor_gets_a_gpu_of_its_own_and_what_is_not_there_is_said(tmp_path: Path, faceless_png: bytes) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(faceless_png)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")
    }
    ended = subprocess.run(
        [sys.executable, "-c", ON_TWO_GPUS, str(tmp_path / "photos"), str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("{")))  # Ray prints beside it
    assert said["gpus"] == [2]
    assert sorted(said["facts"]) == [["cuda", "0", "tf32", True], ["cuda", "1", "tf32", True]]
    assert said["beside another"] == 1, "it goes on with the GPU that is left"
    assert "one needs 0 CPU(s), 1 GPU(s)" in said["busy"] and "4 CPU(s), 2 GPU(s)" in said["busy"]
    assert "device cuda can not be used here" in said["refused"]
