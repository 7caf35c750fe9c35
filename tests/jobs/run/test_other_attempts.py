"""What another attempt does to an output while this one begins. A stand-in for the workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import jobs.run.anonymize
import jobs.run.places
from jobs.errors import PublishError
from jobs.output.layout import OutputLayout
from jobs.output.reader import read_rows
from jobs.output.shared_lease import HeldLease
from jobs.run.anonymize import run_anonymize
from tests.jobs.conftest import MakeConfig
from tests.jobs.run.stand_in import Workers


def test_a_run_with_other_settings_that_had_the_lease_first_is_met(
    make_config: MakeConfig, workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    settings = {"keys": "discard", "keystore": None, "fidelity": None, "steps": None}
    holding = jobs.run.places.holding

    @contextmanager
    def held_by_another_first(layout: OutputLayout) -> Iterator[HeldLease]:
        monkeypatch.setattr(jobs.run.anonymize, "holding", holding)
        run_anonymize(make_config(**settings, min_face=99))
        with holding(layout) as lease:
            yield lease

    monkeypatch.setattr(jobs.run.anonymize, "holding", held_by_another_first)
    with pytest.raises(PublishError, match=r"other settings \(min_face: 99, and now 16\)"):
        run_anonymize(make_config(**settings))
    assert len(workers.attempts) == 1 and len(list(read_rows(tmp_path / "out"))) == 1
