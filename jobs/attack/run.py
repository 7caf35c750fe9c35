"""Attacks on a run: its pictures and sources are read, every attack is tried, and a report is written."""

import importlib.util
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from jobs.attack.evidence import AttackError, gather, trial_of
from jobs.attack.report import AttackReport, Tried, page_of
from jobs.errors import ConfigError
from jobs.output.reader import read_manifest
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.recorded import manifest_of, recorded_config
from jobs.storage.opening import open_store
from jobs.storage.place import Place, holds
from keyanon_core.device import AUTO, usable_device
from keyanon_core.evaluation.attacks import ATTACKS, NotTriedError
from keyanon_core.priors import load_prior
from keystore.errors import StorageError
from keystore.storage import durable

DEFAULT_FACES: Final = 60
DEFAULT_SEED: Final = 1
REPORT_FILE: Final = "attacks.json"
PAGE_FILE: Final = "index.html"

Note = Callable[[str], None]
logger = logging.getLogger(__name__)


def attack_run(
    output: Place,
    destination: Path,
    *,
    source: str | None = None,
    prior: str | None = None,
    endpoint_url: str | None = None,
    faces: int = DEFAULT_FACES,
    seed: int = DEFAULT_SEED,
    device: str = AUTO,
    threads: int = 1,
    note: Note = logger.info,
) -> AttackReport:
    """Try every attack on up to so many pictures of a run, and write REPORT_FILE and PAGE_FILE, closed to others, into
    `destination`.

    source: where the run's input is now; prior: where its prior is now; None as the run had them. seed: of everything that is
    drawn; the same one gives the same report.

    Raises:
        OutputError, PublishError: `output` is no run's. SourceError: its input is not where it was. AttackError: too few faces,
        or scikit-learn is missing. PriorError: the prior is not the one of the run. StorageError: `destination` has a report
        already, or can not be written. ConfigError: it lies in the output.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise AttackError("attackers that learn need scikit-learn; run: pip install 'keyanon[evaluation]'")
    _check_new(destination, output)
    store = open_store(output, endpoint_url)
    read_manifest(store)  # says what is wrong where no run is
    manifest = manifest_of(output, endpoint_url)
    changes = {"photos": source, "prior": prior, "endpoint_url": endpoint_url}
    config = recorded_config(manifest, output, {name: value for name, value in changes.items() if value is not None})
    note("loading the prior and the face models")
    loaded = load_prior(config.prior, device, expected=manifest.prior_digest)
    choice = FaceModelChoice(config.face_models, config.face_weights, config.min_face, manifest.face_models)
    models = choice.load(threads, str(usable_device(device)))
    rng = np.random.default_rng(seed)
    evidence = gather(config, store, models, loaded, faces, note, elsewhere=source is not None)
    trial = trial_of(evidence, config, models, loaded, rng, note)
    tried = []
    for number, attack in enumerate(ATTACKS, 1):
        note(f"attack {number} of {len(ATTACKS)}: {attack.name}")
        try:
            tried.append(Tried(attack, attack.run(trial, _drawing(seed, attack.name))))
        except NotTriedError as reason:
            tried.append(Tried(attack, None, str(reason)))
    report = AttackReport(
        manifest.run_id,
        str(trial.procedure),
        loaded.name,
        loaded.digest,
        seed,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        len(evidence.pictures),
        len(trial),
        tried,
        evidence.left_out,
    )
    write_report(destination, {PAGE_FILE: page_of(report, trial), REPORT_FILE: report.to_json()})
    return report


def _drawing(seed: int, name: str) -> np.random.Generator:
    """What an attack draws from, which no other one moves."""
    return np.random.default_rng([seed, *name.encode()])


def _check_new(destination: Path, output: Place) -> None:
    if holds(output, destination.absolute()):
        raise ConfigError(
            f"{destination} lies in the output {output}, which is published; the report shows source faces"
        )
    for name in (REPORT_FILE, PAGE_FILE):
        if (destination / name).exists():
            raise StorageError(
                f"{destination / name} is there already; name another folder, or remove that report first"
            )
    there = next(one for one in (destination.absolute(), *destination.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"{there} can not be written; name a folder that can")


def write_report(destination: Path, files: dict[str, bytes]) -> None:
    """All or none of them: part of a report would stand in the way of the next. Raises StorageError."""
    written = []
    try:
        durable.make_directory(destination)
        for name, content in files.items():
            durable.write_new(destination / name, content, durable.SECRET_MODE)
            written.append(destination / name)
    except OSError as error:
        for path in written:
            path.unlink()
        raise StorageError(f"{destination} can not be written ({error.strerror}); name a folder that can") from error
