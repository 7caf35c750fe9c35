"""What the anonymity gate asks for, what it costs, and what it leaves of a source.

    python benchmarks/gate.py --photos DIR [--groups FILE.csv ...] [--keys 32] [--store DIR] [--limit 150] [--run 0] [--threads 1]

Each photograph in which the embedded detector finds exactly one face is anonymized under --keys keys by the job's own path, the
gate only noting what the recognizer sees of every one, also after each step. Then any rule can be tried on the same keys:
the first key that passes is the one that counts. Each rule is tried on ORDERS orders of a face's keys; where --keys are fewer
than the job may try, they come again, in an order of chance, which overrates how often a face is quarantined. --store keeps what
was noted (identity vectors of anonymized faces, one file for each photograph), so that a stopped measurement goes on.

Printed for each rule:
- strangers, bits: share of pairs of different people that are as far apart as the rule asks of a face and its source, and the
  most that a face that passed tells of its source, -log2 of that share.
- keys, evaluations: of the denoiser, for one face. quarantined: no key passed.
- kept, given up: at the early checks, share of the keys that would pass at first and went on, and of the others that did not.
- rank: mean rank of the source among all photographs, by distance from the result, over the middle rank; 1 is a stranger's.
  first: how many times as often as chance the source is the nearest of all. By the recognizer that the gate uses, and by the same
  network on mirrored results, which the gate never saw: another view and not another judge.
- distance: mean distance of a result from its source, over that from all other photographs.
Rows of groups: the default rule. Skin tones by the individual typology angle, other groups by files with columns id and group.

Before them a table of early checks: for each set of at most MOST_CHECKS steps to look after, with the margins at which KEPT of
the keys that would pass go on at each look, what a published face costs under the default rule, at --eval-ms for an evaluation,
--coarse-ms for one of the coarse ones and --look-ms for a look of the recognizer. The cheapest sets come first, the one in use
last.

--run N: besides, the first N photographs go through the job's path under the rule as it was (0.6 for the median face, no early
check) and under the default, in turns: keys, evaluations, CPU seconds and quarantined. Ctrl-C prints what was done so far.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from shared import groups_by_id, only_face, photographs, print_table, read

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.groups import skin_tone_of
from keyanon_core.faces import Face, FaceModels, load_face_models
from keyanon_core.faces.mirrored import mirrored_view
from keyanon_core.formats.published import FixedFormat
from keyanon_core.imaging import decode_picture
from keyanon_core.methods.exact import COARSE_SHARE
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.attempts import Attempts
from keyanon_core.pictures.crops import align_faces
from keyanon_core.pictures.gate import EARLY_CHECKS, LOOKED_AT, AnonymityGate, asked_distance
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.settings import DEFAULT_GATE_THRESHOLD, DEFAULT_MAX_ATTEMPTS, AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior, load_prior

GATHERED = 8  # photographs whose keys are made together
ABSOLUTE, SHARES = (0.6, 0.7, 0.75, 0.8), (0.85, 0.9, 0.925, 0.935, 0.95)
ATTEMPTS_AS_IT_WAS = 4
ORDERS = 20  # in which the made keys of a face come
KEPT = 0.95  # of the keys that would pass, at each early check
MOST_CHECKS, SHOWN_SETS = 3, 8
IN_USE = EARLY_CHECKS[AnonymizeSettings().inversion]
AS_IT_WAS = 0.72  # share of the strangers' distance that 0.6 is for the median face

Vectors = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Subject:
    """A photograph with one face. identity: (128,) float32 of the source."""

    image_id: str
    encoded: bytes = field(repr=False)
    face: Face
    identity: Vectors
    groups: tuple[str, ...]


@dataclass(frozen=True)
class MadeKeys:
    """What the recognizer sees of one face under K keys: (K, 128) float32; early: (K, steps - 1, 128), after each step."""

    results: Vectors
    mirrored: Vectors
    early: Vectors


class NotingGate(AnonymityGate):
    """Lets nothing pass and notes what it sees."""

    def __init__(self, models: FaceModels, keys: int) -> None:
        super().__init__(models.recognizer, 1.0, keys)
        self.results, self.mirrored, self.early = (defaultdict[int, list[Vectors]](list) for _ in range(3))

    def measure(self, faces: Sequence[FaceAtWork]) -> None:
        views = [(face.picture.result, face.detected) for face in faces]
        seen = self.recognizer.embed(views + [mirrored_view(*view) for view in views])
        for position, face in enumerate(faces):
            self.results[id(face)].append(seen[position])
            self.mirrored[id(face)].append(seen[len(faces) + position])

    def hopeless(self, faces: Sequence[FaceAtWork], crops: npt.NDArray[np.float64], margin: float) -> list[bool]:
        for face, seen in zip(faces, self._embed_crops(faces, crops), strict=True):
            if seen is not None:
                self.early[id(face)].append(seen)
        return [False] * len(faces)

    def looks_early(self, face: FaceAtWork) -> bool:
        return True

    def passes(self, face: FaceAtWork) -> bool:
        return False

    def made(self, face: FaceAtWork) -> MadeKeys:
        results = np.stack(self.results[id(face)])
        early = np.stack(self.early[id(face)]).reshape(len(results), AnonymizeSettings().steps - 1, -1)
        return MadeKeys(results, np.stack(self.mirrored[id(face)]), early)


@dataclass(frozen=True)
class Rule:
    """bound: least distance of key number k (from 0) of a face whose strangers are `far` away."""

    name: str
    bound: Callable[[float, int], float]
    early: bool = False


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    groups: Annotated[list[Path] | None, typer.Option(help="CSV with columns id and group; again for more.")] = None,
    keys: Annotated[int, typer.Option(help="Keys made for each face.")] = DEFAULT_MAX_ATTEMPTS,
    store: Annotated[Path | None, typer.Option(help="Folder to keep what was noted of each face in.")] = None,
    limit: Annotated[int, typer.Option(help="Photographs to make keys for; all are in the gallery.")] = 150,
    run: Annotated[int, typer.Option(help="Photographs to take through the job's path.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    eval_ms: Annotated[float, typer.Option(help="CPU of an evaluation of the denoiser, a face.")] = 28.0,
    coarse_ms: Annotated[float, typer.Option(help="The same in bfloat16, where steps may be coarse.")] = 10.0,
    look_ms: Annotated[float, typer.Option(help="CPU of a look of the recognizer, a face.")] = 16.0,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    prior, models = load_prior(), load_face_models()
    prior.networks.physical_batch = AnonymizeSettings().face_batch
    subjects, skipped = _subjects(photos, models, groups or [])
    typer.echo(f"{len(subjects)} photographs; skipped: {dict(skipped)}; {prior.name}, {AnonymizeSettings().procedure}")
    made = _made(subjects[:limit], prior, models, keys, store)
    _print_checks(subjects, made, models, _costs(AnonymizeSettings().steps, coarse_ms, eval_ms), look_ms)
    _print_rules(subjects, made, models)
    if run:
        _print_runs(subjects[:run], subjects, prior, models)


def _subjects(photos: Path, models: FaceModels, groups: Sequence[Path]) -> tuple[list[Subject], Counter[str]]:
    labels = groups_by_id(groups)
    subjects, skipped = list[Subject](), Counter[str]()
    for path in photographs(photos):
        try:
            pixels = read(path)
            face = only_face(pixels, models)
            (identity,) = models.recognizer.embed([(pixels, face)])
            skin = skin_tone_of(pixels, face.landmarks)
        except PictureError as error:
            skipped[error.reason] += 1
            continue
        label = (f"skin: {skin}", *dict.fromkeys(labels.get(path.stem, ())))
        subjects.append(Subject(path.stem, path.read_bytes(), face, identity, label))
    return subjects, skipped


def _made(
    subjects: Sequence[Subject], prior: Prior, models: FaceModels, keys: int, store: Path | None
) -> dict[str, MadeKeys]:
    """What is stored, and the rest made and stored, GATHERED at a time. A stopped measurement loses one gathering."""
    made = dict[str, MadeKeys]()
    for subject in subjects:
        if store is not None and (path := store / f"{subject.image_id}.npz").exists():
            with np.load(path) as parts:
                made[subject.image_id] = MadeKeys(parts["results"], parts["mirrored"], parts["early"])
    left = [subject for subject in subjects if subject.image_id not in made]
    for start in range(0, len(left), GATHERED):
        part = left[start : start + GATHERED]
        fresh = _make(part, prior, models, keys)
        made.update(fresh)
        for image_id, one in fresh.items():
            if store is not None:
                store.mkdir(parents=True, exist_ok=True)
                np.savez(store / f"{image_id}.npz", results=one.results, mirrored=one.mirrored, early=one.early)
    return made


def _make(subjects: Sequence[Subject], prior: Prior, models: FaceModels, keys: int) -> dict[str, MadeKeys]:
    settings = AnonymizeSettings(max_attempts=keys)
    gate = NotingGate(models, keys)
    faces = dict[str, FaceAtWork]()
    for subject in subjects:
        task = PictureTask(subject.image_id, subject.encoded, [subject.face])
        pixels = decode_picture(subject.encoded)
        picture = OpenedPicture(task, pixels, pixels.copy(), FixedFormat(pixels, "png"), settings.fidelity)
        (aligned,) = align_faces(pixels, [subject.face], models.parser, settings.regions, prior)
        picture.faces.append(FaceAtWork(aligned, 0, picture))
        faces[subject.image_id] = picture.faces[0]
    attempts = Attempts(prior, gate, settings)
    attempts.checks = dict.fromkeys(range(1, settings.steps), 0.0)
    attempts.run(list(faces.values()))
    return {image_id: gate.made(face) for image_id, face in faces.items()}


@dataclass(frozen=True)
class Checks:
    """Early checks after some steps, and what they do to keys.

    margins: one for each, as in EARLY_CHECKS. kept, given_up: shares of the good keys and of the bad ones. cost: ms of CPU for a
    face that is published.
    """

    steps: tuple[int, ...]
    margins: tuple[float, ...]
    kept: float
    given_up: float
    cost: float


def _costs(steps: int, coarse_ms: float, eval_ms: float) -> list[float]:
    """ms of each step."""
    coarse = int(COARSE_SHARE[AnonymizeSettings().inversion] * steps)
    return [coarse_ms] * coarse + [eval_ms] * (steps - coarse)


def _checks(
    steps: tuple[int, ...],
    margins: tuple[float, ...],
    good: Bools,
    ahead: Doubles,
    step_ms: list[float],
    look_ms: float,
) -> Checks:
    """good: (K,) keys that pass. ahead: (K, N - 1) after each step, distance less bound over the strangers' distance. step_ms: of
    `_costs`.
    """
    going, cost = np.ones(len(good), np.bool_), np.full(len(good), 0.0)
    for before, step, margin in zip((0, *steps), steps, margins, strict=False):
        cost[going] += sum(step_ms[before:step]) + look_ms
        going &= ahead[:, step - 1] >= -margin
    cost[going] += sum(step_ms[steps[-1] if steps else 0 :]) + look_ms
    return Checks(steps, margins, going[good].mean(), 1 - going[~good].mean(), cost.sum() / (going & good).sum())


def _print_checks(
    subjects: Sequence[Subject], made: dict[str, MadeKeys], models: FaceModels, step_ms: list[float], look_ms: float
) -> None:
    """The sets of early checks under which a published face is cheapest."""
    goods, aheads, finals, earlies = [], [], [], []
    for one in subjects:
        if one.image_id not in made:
            continue
        far = models.recognizer.stranger_distance(one.identity)
        keys, bound = made[one.image_id], DEFAULT_GATE_THRESHOLD * far
        finals.append(np.linalg.norm(keys.results - one.identity, axis=1))
        earlies.append(np.linalg.norm(keys.early - one.identity, axis=2))
        goods.append(finals[-1] >= bound)
        aheads.append((earlies[-1] - bound) / far)
    good, ahead = np.concatenate(goods), np.concatenate(aheads)
    least = np.maximum(-np.quantile(ahead[good], 1 - KEPT, axis=0), 0.0)
    sets = [one for count in range(MOST_CHECKS + 1) for one in combinations(range(1, ahead.shape[1] + 1), count)]
    found = [_checks(one, tuple(least[step - 1] for step in one), good, ahead, step_ms, look_ms) for one in sets]
    found = sorted(found, key=lambda one: one.cost)[:SHOWN_SETS]
    in_use = {max(round(share * (ahead.shape[1] + 1)), 1): margin for share, margin in IN_USE}
    found.append(_checks(tuple(in_use), tuple(in_use.values()), good, ahead, step_ms, look_ms))
    known = [final[:, None] for final in finals]
    correlated = np.corrcoef(np.concatenate([np.hstack(pair) for pair in zip(known, earlies, strict=True)]).T)[0, 1:]
    typer.echo(
        f"{len(good)} keys of {len(goods)} faces, {good.mean():.1%} pass; correlation of the distance after each step with the "
        f"final one: {', '.join(f'{one:.2f}' for one in correlated)}"
    )
    rows = [["looks after", "margins", "kept", "given up", "ms a published face"]]
    for checks in found:
        margins = ", ".join(f"{margin:.3f}" for margin in checks.margins)
        rows.append(
            [
                ", ".join(map(str, checks.steps)) or "-",
                margins,
                f"{checks.kept:.0%}",
                f"{checks.given_up:.0%}",
                f"{checks.cost:.0f}",
            ]
        )
    print_table(rows)


def _print_rules(subjects: Sequence[Subject], made: dict[str, MadeKeys], models: FaceModels) -> None:
    gallery = np.stack([subject.identity for subject in subjects]).astype(np.float64)
    far = np.array([models.recognizer.stranger_distance(one.identity) for one in subjects])
    apart = np.linalg.norm(gallery[:, None] - gallery[None], axis=-1)
    others = ~np.eye(len(gallery), dtype=bool)

    def share_of(share: float) -> Callable[[float, int], float]:
        same_person = models.recognizer.threshold
        return lambda strangers, k: asked_distance(share, k, DEFAULT_MAX_ATTEMPTS, strangers, same_person)

    rules = [Rule(f"distance >= {t:g}", lambda _far, _k, t=t: t) for t in ABSOLUTE]  # type: ignore[misc]
    rules += [Rule(f">= {t:g} of strangers'", share_of(t), early=True) for t in SHARES]
    rows = [["rule", "strangers", "bits", *_COLUMNS]]
    for rule in rules:
        asked = np.array([rule.bound(one, 0) for one in far])
        strangers = float((apart >= asked[:, None])[others].mean())
        cells = _figures(rule, [(i, one) for i, one in enumerate(subjects) if one.image_id in made], made, gallery, far)
        rows.append([rule.name, f"{strangers:.1%}", f"{-math.log2(strangers):.2f}", *cells])
    print_table(rows)
    default = Rule("default", share_of(DEFAULT_GATE_THRESHOLD), early=True)
    rows = [["group", "faces", *_COLUMNS]]
    for group in sorted({group for one in subjects for group in one.groups}):
        members = [(i, one) for i, one in enumerate(subjects) if group in one.groups and one.image_id in made]
        if members:
            rows.append([group, str(len(members)), *_figures(default, members, made, gallery, far)])
    print_table(rows)


_COLUMNS = (
    "keys", "evaluations", "without early checks", "quarantined", "kept", "given up", "rank", "first", "rank, mirrored",
    "first, mirrored", "distance",
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """One face under one rule: which of the made keys is published (None: no key passed), how many were tried, at what cost."""

    chosen: int | None
    keys: int
    evaluations: int


def _try(rule: Rule, far: float, distance: Vectors, early: Vectors, order: Sequence[int]) -> Tried:
    """distance: (K,) of the made keys; early: (K, steps - 1). order: which of them come, one after the other."""
    procedure = AnonymizeSettings().procedure
    steps = procedure.steps
    stops = [round(share * steps) for share, _ in IN_USE]
    evaluations = procedure.evaluations - steps  # the inversion of the source, if there is one
    for count, key in enumerate(order):
        bound = rule.bound(far, count)
        looked_at = rule.early and count < LOOKED_AT * DEFAULT_MAX_ATTEMPTS
        given_up = [
            stop
            for stop, (_, margin) in zip(stops, IN_USE, strict=True)
            if looked_at and early[key][stop - 1] < bound - margin * far
        ]
        evaluations += given_up[0] if given_up else steps
        if not given_up and distance[key] >= bound:
            return Tried(key, count + 1, evaluations)
    return Tried(None, len(order), evaluations)


def _figures(
    rule: Rule,
    members: Sequence[tuple[int, Subject]],
    made: dict[str, MadeKeys],
    gallery: npt.NDArray[np.float64],
    far: npt.NDArray[np.float64],
) -> list[str]:
    """The cells of _COLUMNS for some subjects, each with its place in the gallery."""
    random = np.random.default_rng(0)
    with_checks, without = list[Tried](), list[Tried]()
    passing, ranks, ratios = list[tuple[bool, bool]](), {"results": list[int](), "mirrored": list[int]()}, list[float]()
    for place, subject in members:
        keys = made[subject.image_id]
        distance = np.linalg.norm(keys.results - gallery[place], axis=1)
        early = np.linalg.norm(keys.early - gallery[place], axis=2)
        for key in range(len(distance)):
            alone = _try(rule, far[place], distance, early, [key])
            plain = _try(replace(rule, early=False), far[place], distance, early, [key])
            passing.append((plain.chosen is not None, alone.evaluations == plain.evaluations))
        for _ in range(ORDERS):
            again = random.integers(0, len(distance), max(DEFAULT_MAX_ATTEMPTS - len(distance), 0))
            order = [*random.permutation(len(distance)), *again][:DEFAULT_MAX_ATTEMPTS]
            with_checks.append(_try(rule, far[place], distance, early, order))
            without.append(_try(replace(rule, early=False), far[place], distance, early, order))
            if (chosen := with_checks[-1].chosen) is None:
                continue
            for judge, seen in ranks.items():
                apart = np.linalg.norm(gallery - getattr(keys, judge)[chosen], axis=1)
                seen.append(1 + int((apart < apart[place]).sum()))
                if judge == "results":
                    ratios.append(apart[place] / np.delete(apart, place).mean())
    middle, n = (len(gallery) + 1) / 2, len(gallery)
    kept = [went_on for good, went_on in passing if good]
    given_up = [not went_on for good, went_on in passing if not good]
    cells = [
        f"{np.mean([one.keys for one in with_checks]):.2f}",
        f"{np.mean([one.evaluations for one in with_checks]):.0f}",
        f"{np.mean([one.evaluations for one in without]):.0f}",
        f"{np.mean([one.chosen is None for one in with_checks]):.2%}",
        f"{np.mean(kept):.0%}" if rule.early and kept else "-",
        f"{np.mean(given_up):.0%}" if rule.early and given_up else "-",
    ]
    for seen in ranks.values():
        cells += [f"{np.mean(seen) / middle:.2f}", f"{np.mean([rank == 1 for rank in seen]) * n:.1f}"]
    return [*cells, f"{np.mean(ratios):.3f}"]


@dataclass
class Run:
    """What became of the photographs under one gate. ranks: of the source in the gallery, None where quarantined."""

    anonymizer: PictureAnonymizer
    seconds: float = 0.0
    evaluations: int = 0
    keys: int = 0
    ranks: list[int | None] = field(default_factory=list)

    def take(self, part: Sequence[Subject], subjects: Sequence[Subject]) -> None:
        """Anonymize some photographs; `seconds` are CPU seconds of the anonymizer alone."""
        prior, recognizer = self.anonymizer.prior, self.anonymizer.models.recognizer
        began, before = time.process_time(), prior.nfe
        results = self.anonymizer([PictureTask(one.image_id, one.encoded, [one.face]) for one in part])
        self.seconds += time.process_time() - began
        self.evaluations += prior.nfe - before
        for subject, result in zip(part, results, strict=True):
            if result.encoded is None:
                self.ranks.append(None)
                continue
            self.keys += int(result.metrics["attempts"])
            (seen,) = recognizer.embed([(decode_picture(result.encoded), subject.face)])
            apart = np.array([recognizer.distance(one.identity, seen) for one in subjects])
            self.ranks.append(1 + int((apart < apart[subjects.index(subject)]).sum()))

    def ranked(self, gallery: int, members: Sequence[int]) -> list[str]:
        """quarantined, rank, first of some photographs."""
        ranks = [rank for place in members if (rank := self.ranks[place]) is not None]
        middle, first = (gallery + 1) / 2, np.mean([rank == 1 for rank in ranks]) * gallery
        return [str(len(members) - len(ranks)), f"{np.mean(ranks) / middle:.2f}", f"{first:.1f}"]


def _print_runs(part: Sequence[Subject], subjects: Sequence[Subject], prior: Prior, models: FaceModels) -> None:
    """The job's path under the gate as it was and as it is, in turns, GATHERED photographs at a time."""
    runs = {
        "as it was": Run(
            PictureAnonymizer(
                prior, models, AnonymizeSettings(gate_threshold=AS_IT_WAS, max_attempts=ATTEMPTS_AS_IT_WAS)
            )
        ),
        "default": Run(PictureAnonymizer(prior, models, AnonymizeSettings())),
    }
    runs["as it was"].anonymizer.attempts.checks = {}
    try:
        for start in range(0, len(part), GATHERED):
            for run in runs.values():
                run.anonymizer.way_back.take_for_tried()  # the first face is tried in every run: not what is compared here
                run.take(part[start : start + GATHERED], subjects)
            typer.echo(f"{min(start + GATHERED, len(part))} of {len(part)}", err=True)
    except KeyboardInterrupt:
        part = part[:start]  # what both have done
    rows = [["run", "photographs", "keys", "evaluations", "CPU s", "quarantined", "rank", "first"]]
    for name, run in runs.items():
        published = sum(rank is not None for rank in run.ranks)
        figures = [f"{run.keys / max(published, 1):.2f}", f"{run.evaluations / len(run.ranks):.0f}"]
        figures.append(f"{run.seconds / len(run.ranks):.2f}")
        rows.append([name, str(len(part)), *figures, *run.ranked(len(subjects), range(len(part)))])
    print_table(rows)
    rows = [
        ["group", "photographs", *(f"{name}: {what}" for name in runs for what in ("quarantined", "rank", "first"))]
    ]
    for group in sorted({group for one in part for group in one.groups}):
        members = [place for place, one in enumerate(part) if group in one.groups]
        cells = [cell for run in runs.values() for cell in run.ranked(len(subjects), members)]
        rows.append([group, str(len(members)), *cells])
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
