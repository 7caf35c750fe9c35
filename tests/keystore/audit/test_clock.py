"""What a permission lasts is what the clock says: one that can not be right writes nothing, until an operator answers for it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from keystore.audit.log import CLOCK_TOLERANCE, MAX_SILENCE
from keystore.decisions.lifecycle import State
from keystore.embedded import Keystore
from keystore.errors import ClockError, GrantError
from keystore.verification.verify import verify_audit

YEAR = timedelta(days=365)
TICK = timedelta(microseconds=1)


def test_a_clock_set_forward_once_does_not_stop_time(keystore, make, clock) -> None:
    # The log used to go on with its own last time: a request of two hours, made in that standing time, lived for a year.
    clock.now += YEAR
    keystore.confirm_clock("Olga")
    clock.now -= YEAR
    with pytest.raises(ClockError, match="set the clock right"):
        make.request(keystore)
    clock.now += YEAR
    request_id = make.approved(keystore)
    clock.forward(hours=2)
    with pytest.raises(GrantError, match="expired"):
        make.take(keystore, request_id)


def test_a_clock_behind_the_log_writes_and_releases_nothing(keystore, make, clock) -> None:
    request_id = make.approved(keystore)
    size = len(keystore.audit_entries())
    clock.now -= CLOCK_TOLERANCE + TICK
    for act in (
        lambda: make.take(keystore, request_id),
        lambda: make.request(keystore, "b.png"),
        lambda: keystore.deny(request_id, "Dora"),
        lambda: keystore.inbox("run-2"),
        lambda: keystore.erase("photos", "Olga", image_id="a.png"),
    ):
        with pytest.raises(ClockError):
            act()
    assert len(keystore.audit_entries()) == size
    clock.now += TICK
    assert len(make.take(keystore, request_id)) == 1, "a clock that is being corrected by a little goes on"
    times = [json.loads(leaf)["time"] for leaf in keystore.audit_entries()]
    assert times == sorted(times)


def test_a_jump_beyond_the_bound_asks_for_an_operator(keystore, make, clock) -> None:
    make.request(keystore)
    clock.now += MAX_SILENCE
    make.request(keystore)
    clock.now += MAX_SILENCE + TICK
    with pytest.raises(ClockError, match="confirm-clock"):
        make.request(keystore)
    with pytest.raises(ClockError):
        keystore.inbox("run-2")
    keystore.confirm_clock("Olga")
    last = json.loads(keystore.audit_entries()[-1])
    assert (last["type"], last["back"]) == ("clock", False)
    make.request(keystore)
    assert verify_audit(keystore.path).ok


def test_a_keystore_with_a_wrong_clock_can_be_opened_and_read(keystore, make, clock) -> None:
    request_id = make.approved(keystore)
    keystore.close()
    for moved in (-YEAR, YEAR):
        clock.now += moved
        with Keystore.open(keystore.path, clock=clock) as again:
            assert again.show(request_id).request_id == request_id
            assert len(again.find_records()) == 3
        clock.now -= moved


@pytest.mark.parametrize("moved", [-YEAR, YEAR])
def test_a_lost_witness_is_started_again_whatever_the_clock_says(keystore, make, clock, moved: timedelta) -> None:
    request_id, note = make.approved(keystore), keystore.checkpoint()
    keystore.close()
    (keystore.path / "witness" / "checkpoint").unlink()
    clock.now += moved
    with Keystore.open(keystore.path, checkpoint=note, clock=clock) as again:
        assert again.show(request_id).state is State.DENIED
        make.request(again)
    assert verify_audit(keystore.path).ok


def test_an_operator_who_takes_time_back_ends_every_open_request(keystore, make, clock) -> None:
    clock.forward(days=60)
    open_requests = [make.approved(keystore), make.request(keystore, "b.png").request_id]
    released = make.approved(keystore, "c.png")
    make.take(keystore, released)
    clock.forward(days=-60)
    keystore.confirm_clock("Olga")
    assert json.loads(keystore.audit_entries()[-1])["back"] is True
    for request_id in open_requests:
        assert keystore.show(request_id).state is State.DENIED
        with pytest.raises(GrantError, match="denied"):
            make.take(keystore, request_id)
    assert keystore.show(released).state is State.RELEASED
    assert len(make.take(keystore, make.approved(keystore))) == 1
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
