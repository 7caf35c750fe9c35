import os
from pathlib import Path

import pytest

from jobs.run.usable_cpus import usable_cpus


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def usable(root: Path, membership: str, **files: str) -> int:
    """With this /proc/self/cgroup and these files of the control groups, `__` in a name for `/`."""
    for name, text in files.items():
        path = root / "cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "membership").write_text(membership)
    return usable_cpus(root / "cgroup", root / "membership")


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("x", 8)]
)
def test_a_quota_of_version_2_limits_and_is_rounded_down(tmp_path: Path, quota: str, cpus: int) -> None:
    assert usable(tmp_path, "0::/a/b\n", a__b__cpu_max=quota) == cpus


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    files = {"a__cpu_max": "300000 100000", "a__b__cpu_max": "600000 100000", "other__cpu_max": "100000 100000"}
    assert usable(tmp_path, "0::/a/b\n", **files) == 3


def test_a_container_sees_its_own_group_where_the_hosts_path_leads_nowhere(tmp_path: Path) -> None:
    assert usable(tmp_path, "0::/kubepods/pod1/abc\n", cpu_max="400000 100000") == 4
    assert usable(tmp_path, "0::/../../abc\n", cpu_max="400000 100000") == 4


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("200000", 2)])
def test_a_quota_of_version_1_limits(tmp_path: Path, quota: str, cpus: int) -> None:
    files = {"cpu__d__cpu_cfs_quota_us": f"{quota}\n", "cpu__d__cpu_cfs_period_us": "100000\n"}
    assert usable(tmp_path, "4:memory:/d\n3:cpu,cpuacct:/d\n1:name=systemd:/d\n", **files) == cpus


def test_the_affinity_mask_limits_and_what_can_not_be_read_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cpus(tmp_path / "nowhere", tmp_path / "nothing") == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable(tmp_path, "0::/a\n", a__cpu_max="400000 100000") == 2
