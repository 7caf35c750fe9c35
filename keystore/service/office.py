"""What the endpoints share: the keystore, one writer at a time, what a caller may see, and the cap on refusals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keystore.decisions.tokens import Caller
from keystore.decisions.views import RequestView
from keystore.errors import Refusal, RequestNotFound
from keystore.intake.folder import FolderInbox
from keystore.served import ServedKeystore
from keystore.service.endpoints import ENDPOINTS, Reach
from keystore.service.guard import HOUR, Guard, nothing_here
from keystore.service.messages import SeenRequest
from keystore.service.observing import Metrics

if TYPE_CHECKING:
    from keystore.service.oidc.sign_in import SignIns


VERIFICATIONS_PER_HOUR = 12  # of one token


class Office:
    """One open keystore, as the calls on it share it."""

    def __init__(
        self,
        keystore: ServedKeystore,
        inbox: Path,
        guard: Guard,
        metrics: Metrics,
        sign_ins: SignIns | None = None,
        *,
        may_break_glass: bool = False,
    ) -> None:
        self.keystore, self.guard, self.metrics, self.sign_ins = keystore, guard, metrics, sign_ins
        self.inbox, self.may_break_glass = FolderInbox(inbox), may_break_glass
        self.one_writer = threading.Lock()

    @contextlib.contextmanager
    def deciding(self, caller: Caller) -> Iterator[None]:
        """One writing call of a caller; a refusal by the rules, which is an entry of the log, counts."""
        self.guard.check_refusals(caller)
        with self.one_writer:
            try:
                yield
            except Refusal as error:
                self.guard.count_refusal(caller)
                self.metrics.refusals.labels(error.code).inc()
                raise

    def begin_verification(self, caller: Caller) -> None:
        """Count a call that reads the whole log and all records. Raises CallError: a token made too many."""
        self.guard.hold(caller, "verification", VERIFICATIONS_PER_HOUR, HOUR)

    def visible(self, request_id: str, caller: Caller, name: str) -> RequestView:
        """Return a request that is within the caller's reach. Raises CallError."""
        try:
            view = self.keystore.show(request_id)
        except RequestNotFound:
            raise nothing_here() from None
        reach = ENDPOINTS[name].roles[caller.role]
        reached = reach not in (Reach.OWN, Reach.OWN_CHANGES) or view.requester == caller.person
        reached = reached and (reach is not Reach.OWN_CHANGES or view.change is not None)
        if not reached or not all(caller.may_touch(image.dataset) for image in view.images):
            raise nothing_here()
        return view

    def seen(self, view: RequestView) -> SeenRequest:
        """Return a request as a message."""
        return SeenRequest(**dict(view), count=len(view.images))
