"""Killing a process at each step of an operation, one step after the other: by count, not by the clock."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from tests.keystore.postgres import SERVER, copy_keystore, database_name, remove_keystore

MAX_STEPS = 500


def killed_at_each_step(
    template: Path, work: Path, begin: Callable[[Path], Any], operate: Callable[[Any], object]
) -> Iterator[Path]:
    """Yield a copy of `template` in each state that a kill -9 at a statement, commit, sync, rename or removal of `operate` left.

    `begin` opens what `operate` works on, and is not counted. The last copy is one whose operation ended. A state that is the one
    of the step before is not tried again.
    """
    states = _killed_on_the_server if database_name(template) else _copied_at_each_step
    yield from states(template, work, begin, operate)


def _copied_at_each_step(
    template: Path, work: Path, begin: Callable[[Path], Any], operate: Callable[[Any], object]
) -> Iterator[Path]:
    """What a kill leaves of files is what lies there at that moment: `operate` runs once, and all is copied at each step."""
    operated, before = copy_keystore(template, work / "operated"), None
    killed = in_a_process(operated, lambda step: copy_files(operated, work / f"left-{step}"), begin, operate)
    assert not killed
    steps = sum(1 for _ in work.glob("left-*"))
    assert steps > 5, "the steps are counted"
    for copy in (*(work / f"left-{step}" for step in range(1, steps + 1)), operated):
        here = contents(copy)
        if here != before:
            yield copy
        before = here
        remove_keystore(copy)


def _killed_on_the_server(
    template: Path, work: Path, begin: Callable[[Path], Any], operate: Callable[[Any], object]
) -> Iterator[Path]:
    """`operate` runs once to find before which steps something was committed or a file changed; then it is killed at those."""
    operated, seen = copy_keystore(template, work / "operated"), work / "states"

    def look(_: int) -> None:
        with SERVER[
            0
        ].connect() as connection:  # the number after that of the last transaction that wrote something and ended
            (ended,) = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone() or ()
        with seen.open("a") as stream:
            stream.write(hashlib.sha256(repr((ended, sorted(contents(operated).items()))).encode()).hexdigest() + "\n")

    assert not in_a_process(operated, look, begin, operate)
    states = seen.read_text().splitlines()
    assert len(states) > 5, "the steps are counted"
    for step, (before, state) in enumerate(pairwise(["", *states]), 1):
        if state != before:
            copy = copy_keystore(template, work / f"killed-{step}")
            assert in_a_process(copy, partial(_kill_at, step), begin, operate)
            yield copy
            remove_keystore(copy)
    yield operated
    remove_keystore(operated)


def copy_files(source: Path, target: Path) -> None:
    """Copy what somebody writes in; by a process of its own, since closing a file here would end SQLite's locks on it."""
    subprocess.run(["cp", "-a", source, target], check=True)


def contents(directory: Path) -> dict[Path, bytes]:
    """What lies in a keystore's directory; without SQLite's index of the WAL, which whoever opens it next makes anew."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {path.relative_to(directory): path.read_bytes() for path in files}


def killed_again_and_again(
    template: Path, work: Path, begin: Callable[[Path], Any], operate: Callable[[Any], object], every: int
) -> Iterator[Path]:
    """Yield for one of so many steps, as `killed_at_each_step` counts them, a copy of `template` that was killed there."""
    for step in range(1, MAX_STEPS, every):
        copy = copy_keystore(template, work / f"killed-{step}")
        killed = in_a_process(copy, partial(_kill_at, step), begin, operate)
        yield copy
        remove_keystore(copy)
        if not killed:
            assert step > 5, "the steps are counted"
            return
    raise AssertionError(f"the operation has more than {MAX_STEPS} steps")


def _kill_at(last: int, step: int) -> None:
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(
    path: Path, reach: Callable[[int], object], begin: Callable[[Path], Any], operate: Callable[[Any], object]
) -> bool:
    """Let a process of its own operate on `path` and call `reach` before each step; return whether that killed it."""
    process = os.fork()
    if process == 0:
        _operate(path, reach, begin, operate)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the operation failed without being killed"
    return os.WIFSIGNALED(status)


def _counted(real: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        count()
        return real(*given, **named)

    return counted


def _operate(
    path: Path, reach: Callable[[int], object], begin: Callable[[Path], Any], operate: Callable[[Any], object]
) -> None:
    steps = count(1)

    def counted(*_: object) -> None:
        reach(next(steps))

    try:
        opened = begin(path)
        for name in ("before_cursor_execute", "commit"):
            event.listen(Engine, name, counted)
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, _counted(getattr(owner, name), counted))
        operate(opened)
    except BaseException:  # noqa: BLE001  # a forked process never returns into pytest
        os._exit(1)
    os._exit(0)
