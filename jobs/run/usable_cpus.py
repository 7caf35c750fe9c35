"""How many CPUs this process may use: fewer than the machine has where an affinity mask or a container's quota says so."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """CPUs by the affinity mask and by the quotas of the process's control groups, rounded down, at least 1.

    cgroups: where control groups are mounted, of version 1 or 2 (Linux, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`).
    membership: which of them are the process's. What can not be read limits nothing.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(min([affinity, *_quotas(cgroups, membership)])), 1)


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """CPUs that each control group above the process allows it."""
    for line in _text(membership).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / "cpu" if controllers else cgroups
        group = PurePosixPath(path.lstrip("/"))
        # In a container the path may be the host's, and the container's own group is what is mounted.
        for one in (group, *group.parents):
            if ".." not in one.parts:
                yield from _quota(mount / one)


def _quota(group: Path) -> Iterator[float]:
    """The quota of one group, none where it has none."""
    of_version_2 = _text(group / "cpu.max").split()
    of_version_1 = [_text(group / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    for quota, period in (pair for pair in (of_version_2, of_version_1) if len(pair) == 2):
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max" and -1 are no quota
            yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
