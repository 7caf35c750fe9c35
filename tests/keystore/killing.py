"""Killing a process at each step of an operation, one step after the other: by count, not by the clock."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from tests.keystore.postgres import copy_keystore, remove_keystore

MAX_STEPS = 500


def killed_at_each_step(
    template: Path, work: Path, begin: Callable[[Path], Any], operate: Callable[[Any], object], every: int = 1
) -> Iterator[Path]:
    """Yield, for each statement, commit, sync, rename and removal of `operate`, a copy of `template` that a kill -9 there left.

    `begin` opens what `operate` works on, and is not counted. The last copy is one whose operation ended. every: of so many steps
    one, where the same steps are tried one by one elsewhere.
    """
    for step in range(1, MAX_STEPS, every):
        copy = work / f"killed-{step}"
        copy_keystore(template, copy)
        process = os.fork()
        if process == 0:
            _operate(copy, step, begin, operate)
        _, status = os.waitpid(process, 0)
        yield copy
        remove_keystore(copy)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"the operation failed at step {step} without being killed"
            assert step > 5, "the steps are counted"
            return
    raise AssertionError(f"the operation has more than {MAX_STEPS} steps")


def _counted(real: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        count()
        return real(*given, **named)

    return counted


def _operate(copy: Path, step: int, begin: Callable[[Path], Any], operate: Callable[[Any], object]) -> None:
    left = step

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        opened = begin(copy)
        for name in ("before_cursor_execute", "commit"):
            event.listen(Engine, name, count)
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, _counted(getattr(owner, name), count))
        operate(opened)
    except BaseException:  # noqa: BLE001  # a forked process never returns into pytest
        os._exit(1)
    os._exit(0)
