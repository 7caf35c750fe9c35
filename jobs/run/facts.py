"""What the workers of a run loaded, kept in its manifest: a resume must use the same prior."""

import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ray.exceptions import RayError

from jobs.errors import JobError
from jobs.output.manifest import Manifest
from jobs.run.progress import Monitor
from jobs.storage.store import Store

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """Remembers them when it is told to, and when the `with` block fails."""

    manifest: Manifest
    store: Store
    monitor: Monitor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What remembering meets then hides nothing of the failure: a full disk is met twice."""
        if error is not None:
            try:
                self.remember()
            except (JobError, OSError) as further:
                _LOGGER.warning("the manifest could not be written when the run had failed: %s", further)

    def remember(self) -> None:
        """Write down what is known by now. Raises LeaseError, OSError, MachineError."""
        try:
            facts = self.monitor.facts()
        except RayError:  # the cluster is gone, and with it the facts of this attempt
            return
        self.manifest.facts.extend(fact for fact in facts if fact not in self.manifest.facts)
        self.manifest.write(self.store)
