"""What an attempt does that may quarantine only a share of its rows."""

from collections import Counter

import pytest

from jobs.errors import TooManyQuarantinedError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.output.failure_rate import MIN_ROWS, FailureRate
from jobs.output.publisher import Publisher
from tests.jobs.publishing import Place, block, quarantined

GOOD = [{"status": "anonymized", "reason": ""}]
BAD = [{"status": "quarantined", "reason": "corrupt: not a picture"}]


def test_a_share_says_nothing_before_there_are_enough_rows() -> None:
    rate = FailureRate(0.5)
    rate.admit(BAD * (MIN_ROWS - 1))
    with pytest.raises(TooManyQuarantinedError, match=f"{MIN_ROWS} of {MIN_ROWS} .*corrupt {MIN_ROWS}") as found:
        rate.admit(BAD)
    assert exit_code_of(found.value) is ExitCode.QUARANTINED


def test_just_the_allowed_share_is_allowed() -> None:
    rate = FailureRate(0.5)
    rate.admit((GOOD + BAD) * MIN_ROWS)
    with pytest.raises(TooManyQuarantinedError):
        rate.admit(BAD)
    FailureRate(0.0).admit(GOOD * MIN_ROWS)
    with pytest.raises(TooManyQuarantinedError):
        FailureRate(0.0).admit(GOOD * MIN_ROWS + BAD)
    FailureRate(None).admit(BAD * MIN_ROWS)


def test_the_whole_run_is_judged_however_small_it_is() -> None:
    with pytest.raises(TooManyQuarantinedError, match="2 of 3 rows"):
        FailureRate(0.5).judge(3, Counter({"corrupt": 2}))
    FailureRate(0.5).judge(4, Counter({"corrupt": 2}))
    FailureRate(0.5).judge(0, Counter())


def test_of_the_block_that_goes_too_far_nothing_becomes_visible(place: Place) -> None:
    with place.attempt() as attempt:
        rate = FailureRate(0.5)
        publisher = Publisher(place.layout, attempt.lease, set(), admit=rate.admit)
        publisher.open()
        attempt.sink().stage(block([place.result(row, f"{row}.jpg", b"x") for row in range(3)]))
        publisher.publish_complete()
        seen = place.visible()
        bad = [quarantined(row, f"{row}.jpg", "unreadable: x") for row in range(3, 3 + MIN_ROWS)]
        attempt.sink().stage(block([place.result(2000, "last.jpg", b"x"), *bad]))
        with pytest.raises(TooManyQuarantinedError, match=f"{MIN_ROWS} of {MIN_ROWS + 4} .*unreadable"):
            publisher.publish_complete()
        assert place.visible() == seen
        place.check_visible()
    with place.attempt() as attempt:  # with the same rows allowed, an attempt goes on
        attempt.run([[*bad, *[quarantined(3 + MIN_ROWS, "more.jpg")]]], MIN_ROWS + 4)
    place.check_complete(MIN_ROWS + 4)
