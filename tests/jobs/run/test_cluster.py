"""How a run gets its cluster, and what it says when Ray fails."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayTaskError

from jobs.errors import DefectError, MachineError, PublishError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.run.cluster import cause_of, keystore_on_several, ray_cluster
from tests.jobs.conftest import MakeConfig

pytestmark = pytest.mark.slow

SECONDS = 300  # for a cluster to start and end, where it takes 6


def test_a_dead_clusters_address_does_not_keep_a_local_one_from_starting() -> None:
    # Sockets lie below Ray's directory and their paths are limited to 107 bytes: pytest's own directory is too deep.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as private:
        left_behind = Path(private) / "ray" / "ray_current_cluster"
        left_behind.parent.mkdir()
        left_behind.write_text("127.0.0.1:1")
        code = (
            "import ray, ray.data; from jobs.run.cluster import ray_cluster\nwith ray_cluster(0):\n"
            " print(len(ray.nodes()), *sorted({*ray._private.worker._global_node.all_processes} - {'reaper'}))\n"
            " pool = ray.data.ActorPoolStrategy(size=1)\n"
            " same = type('Same', (), {'__call__': lambda self, rows: rows})\n"
            " ray.data.range(3).map_batches(same, compute=pool).materialize()\n"
            " print(*ray.util.list_named_actors(all_namespaces=True))"
        )
        environment = {**os.environ, "RAY_TMPDIR": private}
        environment.pop("RAY_ADDRESS", None)
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        # Neither a monitor of logs nor one of clouds nor a dashboard's server, see `jobs.run.local_node`; and none of the actors
        # that Ray Data names, see `jobs.run.local_data`.
        assert (ended.returncode, ended.stdout.split()) == (0, ["1", "gcs_server", "raylet"]), ended.stderr[-2000:]


@pytest.mark.parametrize(("kek", "beside"), [(None, True), ("file:/elsewhere/kek.key", False)])
def test_a_keystore_that_several_machines_write_into_is_told_of(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, kek: str | None, beside: bool
) -> None:
    addresses = ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    nodes = [{"Alive": True, "NodeManagerAddress": one} for one in addresses]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    config = make_config(kek=kek)
    said = keystore_on_several(config)
    assert said is not None and "2 machines" in said and f"{config.keystore}/inbox" in said and "ingest_key" in said
    assert ("KEK" in said) is beside
    assert keystore_on_several(make_config(keys="discard", keystore=None, fidelity="latent")) is None
    nodes[2]["Alive"] = False
    assert keystore_on_several(config) is None


def test_a_machine_too_busy_to_start_a_cluster_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_busy(**_: object) -> None:
        raise Exception("The current node timed out during startup")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_busy)
    with pytest.raises(MachineError, match=r"could not be started.*timed out") as caught, ray_cluster(0):
        pass
    assert exit_code_of(caught.value) == ExitCode.TRY_AGAIN


@ray.remote(max_retries=0)
def ends_by(what: str) -> None:
    if what == "death":
        os._exit(1)
    if what == "defect":
        raise ZeroDivisionError("a secret")
    if what == "machine":
        raise MemoryError
    raise PublishError("the output is full")


@pytest.mark.parametrize(
    ("what", "kind", "code"),
    [
        ("death", MachineError, ExitCode.TRY_AGAIN),
        ("machine", MachineError, ExitCode.TRY_AGAIN),
        ("defect", DefectError, ExitCode.UNEXPECTED),
        ("purpose", PublishError, ExitCode.INPUT),
    ],
)
def test_what_ended_a_run_is_found_in_rays_wrappings(
    ray_cluster: Path, what: str, kind: type[Exception], code: ExitCode
) -> None:
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(ends_by.remote(what))
    cause = cause_of(caught.value, "run")
    assert type(cause) is kind and exit_code_of(cause) is code
    if what == "defect":
        assert isinstance(caught.value, RayTaskError) and "secret" not in str(cause)


@pytest.mark.parametrize(
    ("met", "kind"),
    [
        (ray.exceptions.WorkerCrashedError(), MachineError),
        (ray.exceptions.ObjectStoreFullError("full"), MachineError),
        (ray.exceptions.UserCodeException("a secret"), DefectError),
    ],
)
def test_what_a_task_lost_of_the_cluster_is_no_defect_and_what_its_code_raised_is(
    met: ray.exceptions.RayError, kind: type[Exception]
) -> None:
    cause = cause_of(RayTaskError("submit", "Traceback", met), "run")
    assert type(cause) is kind


@ray.remote(max_restarts=0)
class NeverBegins:
    def __init__(self) -> None:
        raise ZeroDivisionError("a secret")

    def answer(self) -> int:
        return 1


def test_a_worker_whose_constructor_raises_is_a_defect_and_no_reason_to_try_again(ray_cluster: Path) -> None:
    with pytest.raises(ray.exceptions.ActorDiedError) as caught:
        ray.get(NeverBegins.remote().answer.remote())
    cause = cause_of(caught.value, "run")
    assert exit_code_of(cause) is ExitCode.UNEXPECTED
    assert "ZeroDivisionError" in str(cause) and "secret" not in str(cause)
