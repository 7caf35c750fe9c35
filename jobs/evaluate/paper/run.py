"""The driver of the paper's protocol."""

import hashlib
from dataclasses import replace
from typing import Any, Final

import numpy as np

from jobs.errors import SourceError
from jobs.evaluate.measuring import Measuring, Progress, made_here, measure_and_tell
from jobs.evaluate.paper.config import PaperConfig
from jobs.evaluate.paper.lists import CELEBA_HQ, LFW, Sample, celeba_samples, lfw_samples
from jobs.evaluate.paper.pieces import Missing
from jobs.evaluate.paper.report import paper_report, write_paper_report
from jobs.evaluate.paper.source import PaperSource
from jobs.evaluate.paper.stage import MeasurePaper
from jobs.evaluate.portions import Portions, gathered
from jobs.sources.again import spread
from jobs.storage.opening import open_store
from jobs.storage.store import Store
from keystore.crypto.canonical import canonical_json

PICTURES_PER_TASK: Final = 8  # which a GPU has in hand together


def run_paper(config: PaperConfig, missing: list[Missing], progress: Progress | None = None) -> dict[str, Any]:
    """Measure what is not measured yet, and write the report; what REPORT holds. missing: of `missing_pieces`.

    Raises:
        SourceError: a list or a data set can not be used, or not one picture could be measured.
        PriorError, FaceModelError, EvaluationError: a model can not be used; all are loaded here first.
        What `measure_and_tell` does.
    """
    samples, stores = _samples(config)
    choice = config.models()
    choice = replace(choice, expected=choice.load("cpu").models.digests())
    of_each = [
        spread(np.array([row for row, one in enumerate(samples) if one.data_set == data_set], np.int64), config.limit)
        for data_set in stores
    ]
    degraded = spread(of_each[0], config.degraded)
    chosen = np.concatenate(of_each)
    source = PaperSource(samples, stores, degraded.tolist(), config.max_file_bytes)
    facts = {
        **made_here(),
        "prior": str(config.prior),
        "models": dict(choice.expected),
        "data_sets": {name: str(store) for name, store in stores.items()},
        "listed_pictures": len(samples),
        "chosen_pictures": len(chosen),
        "missing_pieces": [one.to_dict() for one in missing],
    }
    meant = {**config.meant(), "models": dict(choice.expected), "pictures": source.digest}
    work = Measuring(
        output=config.output,
        digest=hashlib.sha256(canonical_json(meant)).hexdigest(),
        source=source,
        chosen=chosen,
        stage=MeasurePaper,
        arguments={"choice": choice, "max_pixels": config.max_pixels},
        rows=PICTURES_PER_TASK,
        workers=config.workers,
        device=config.device,
    )
    lacking = [(one.lacking, one.what) for one in missing if one.lacking]

    def tell(portions: Portions) -> dict[str, Any]:
        found = gathered(portions)
        if not len(found.faces.face):
            raise SourceError(f"not one picture could be measured: {'; '.join(found.examples.values())}")
        report = paper_report(found, samples, config.steps, lacking, facts)
        write_paper_report(config.output.absolute(), report, found, portions)
        return report

    return measure_and_tell(work, tell, progress)


def _samples(config: PaperConfig) -> tuple[list[Sample], dict[str, Store]]:
    """Raises SourceError, MachineError."""
    samples, stores = list[Sample](), dict[str, Store]()
    if config.lfw is not None:
        stores[LFW] = open_store(config.lfw, config.endpoint_url)
        samples += lfw_samples(stores[LFW], config.lfw_pairs)
    if config.celeba_hq is not None:
        stores[CELEBA_HQ] = open_store(config.celeba_hq, config.endpoint_url)
        samples += celeba_samples(stores[CELEBA_HQ], config.celeba_hq_list)
    return samples, stores
