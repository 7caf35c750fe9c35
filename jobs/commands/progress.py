"""How a run shows where it is: a bar on a terminal, lines of JSON elsewhere. Both on stderr."""

import json
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.run.progress import Phase, RunState

DEFAULT_INTERVAL: Final = 30.0  # seconds between lines


class ProgressBar:
    """A bar with images and faces per second and the time left; usable as `run_anonymize(progress=...)`."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[images]:.2f} images/s  {task.fields[faces]:.2f} faces/s"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(Phase.LISTING, total=None, images=0.0, faces=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, state: RunState) -> None:
        self._progress.update(
            self._task,
            description=state.phase,
            total=state.total,
            completed=state.rows,
            images=state.images_per_second,
            faces=state.faces_per_second,
        )


class ProgressLines:
    """One JSON object a line, when a phase begins and every so many seconds, so that a log shows that a run lives whatever it is
    at; usable as `run_anonymize(progress=...)`.
    """

    def __init__(self, interval: float = DEFAULT_INTERVAL, stream: TextIO | None = None) -> None:
        self._interval, self._stream = interval, stream or sys.stderr
        self._state = RunState(phase=Phase.LISTING)
        self._shown: Phase | None = None
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="keyanon-progress-lines", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, state: RunState) -> None:
        self._state = state
        if state.phase is not self._shown:
            self._show()

    def _repeat(self) -> None:
        while not self._over.wait(self._interval):
            self._show()

    def _show(self) -> None:
        with self._lock:
            state = self._state
            self._shown = state.phase
            self._stream.write(json.dumps(line_of(state)) + "\n")
            self._stream.flush()


def line_of(state: RunState) -> dict[str, Any]:
    """What one line says. Times in seconds, rates a second; null for what is not known yet."""
    left, waiting = state.seconds_left, state.waiting_share
    return {
        "progress": state.phase,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": state.rows,
        "total": state.total,
        "statuses": dict(state.statuses),
        "images_per_second": round(state.images_per_second, 3),
        "faces": state.faces,
        "faces_per_second": round(state.faces_per_second, 3),
        "device_faces_per_second": {name: round(rate, 3) for name, rate in state.device_faces_per_second.items()},
        "evaluations": state.evaluations,
        "waiting_share": None if waiting is None else round(waiting, 3),
        "seconds": round(state.seconds, 1),
        "seconds_left": None if left is None else round(left),
    }
