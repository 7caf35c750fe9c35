"""What the tests of runs share."""

import pytest

import jobs.run.anonymize
from tests.jobs.run.stand_in import Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """What `jobs.run.anonymize` computes with in this test."""
    made = Workers()
    monkeypatch.setattr(jobs.run.anonymize, "_compute", made)
    return made
