"""What all tests share: one Ray cluster for the whole session, the public-domain pictures that ship in packages, and how
processes share the tests.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# `make test` tries the same examples each time: what fails on one machine fails on another. `make search` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile("repeatable")

# Inherited by the processes that tests start. Where several share two cores they are fastest with a thread each, and Ray's
# workers, to which Ray gives the lowest priority, would wait for all the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes and long text are numbered, not spelled out: a compressed one holds the time, and two processes that share the tests
    would know the test by two names.
    """
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 100) else None


@pytest.hookimpl(tryfirst=True)  # xdist's own reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests (`make test`), each file goes to one of them, so that what its tests share is made
    once, and all that use the session's cluster to the same one: another would cost its start, and the memory of what both load.

    These come first, then the files with slow tests, those with many before those with few: of a long one that comes last the
    other processes would see the end with nothing to do.
    """
    if not config.pluginmanager.has_plugin("xdist"):
        return
    places = {item: item.path.relative_to(config.rootpath).as_posix() for item in items}
    on_ray = {places[item] for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    groups = {place: "ray" if place in on_ray else place for place in places.values()}
    for item, place in places.items():
        item.add_marker(pytest.mark.xdist_group(groups[place]))
    slow = {groups[places[item]] for item in items if item.get_closest_marker("slow")}
    sizes = Counter(groups[place] for place in places.values())

    def turn(item: pytest.Item) -> tuple[bool, bool, int]:
        group = groups[places[item]]
        return group != "ray", group not in slow, -sizes[group]

    items.sort(key=turn)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to share tests whose groups xdist did not see: each would go to any process, and most of it would be made twice."""
    if not getattr(session.config.option, "loadgroup", False):  # set in the processes that share them
        return
    for item in session.items:
        mark = item.get_closest_marker("xdist_group")
        if mark is None or not item.nodeid.endswith(f"@{mark.args[0]}"):
            raise pytest.UsageError(f"xdist sees no group of {item.nodeid}")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Path]:
    """A local Ray cluster, as a run starts it; the directory with its logs and spilled objects. It starts in 4-6 s, hence one for
    all tests.
    """
    import ray

    from jobs.run.local_data import local_data
    from jobs.run.local_node import local_nodes

    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with local_nodes():
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=256 * 1024 * 1024,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    with local_data():
        yield Path(ray._private.worker._global_node.get_session_dir_path())
    ray.shutdown()


def _in_package(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / path


@pytest.fixture(scope="session")
def astronaut() -> Path:
    """512 x 512, one face (NASA, public domain)."""
    return _in_package("skimage", "data/astronaut.png")


@pytest.fixture(scope="session")
def grace_hopper() -> Path:
    """512 x 600, one face (US Navy, public domain)."""
    return _in_package("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")


@pytest.fixture(scope="session")
def coffee() -> Path:
    """600 x 400, no face (public domain)."""
    return _in_package("skimage", "data/coffee.png")
