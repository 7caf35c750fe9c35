"""Before anything is published a face comes back from its stored form, or the run ends."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keyanon_core.errors import NotReversibleError, PriorError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import reduction, similarity
from keyanon_core.faces.detection import Face
from keyanon_core.pictures import recoverer, way_back
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import Crop, cut_crop
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.pictures.way_back import WayBack
from keyanon_core.priors import Prior, load_prior
from keyanon_core.sidecar import Sidecar, SidecarFace, seal_source
from tests.keyanon_core.diffusion.tiny_priors import declare, kl_prior, ldm_prior, pixel_prior
from tests.keyanon_core.pictures.told_models import Told, face_at, plain_photograph

STEPS = 8
TOO_STEEP = 60.0  # factor on the denoiser's last layer beyond which a step's fixed point no longer contracts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    """A prior of random weights that can be inverted, in milliseconds."""
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def photograph() -> bytes:
    buffer = BytesIO()
    plain_photograph(128, 128).save(buffer, "PNG")
    return buffer.getvalue()


def as_large_as_its_crop(prior: Prior, times: float) -> Face:
    """A face, so many times as large in its picture as in the prior's crop."""
    of_box = reduction(similarity(face_at(64, 60, 10.0).landmarks, prior.landmark_template)) / 10.0
    return face_at(64, 60, times / of_box)


def settings(**changes: object) -> AnonymizeSettings:
    return AnonymizeSettings(**{"steps": STEPS, "gate_threshold": 0.0, **changes})  # type: ignore[arg-type]


def test_a_prior_that_does_not_converge_stops_before_anything_is_published(
    tmp_path: Path, models: FaceModels, astronaut: bytes
) -> None:
    steep = load_prior(pixel_prior(tmp_path, "inpaint"))
    with torch.no_grad():
        for name, parameter in steep.networks.denoiser.network.named_parameters():
            if name.startswith("conv_out"):
                parameter *= TOO_STEEP
    anonymizer = PictureAnonymizer(steep, models, settings())
    # It does not converge, or to a face that is not the source's: some noise has several sources.
    numbers = r"a: face 0 does not come back .*residual .*\d.* iterations"
    for _ in range(2):  # trying again does not get past it
        with pytest.raises(NotReversibleError, match=numbers):
            anonymizer([PictureTask("a", astronaut)])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"fidelity": "latent"}, r"PSNR \d+\.\d dB where \d+\.\d dB is wanted .*residual .* iterations"),
        ({"fidelity": "lossless"}, "tag does not verify"),
    ],
)
def test_a_sidecar_that_does_not_hold_the_face_stops_the_run(
    tiny: Prior,
    models: FaceModels,
    astronaut: bytes,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    fault: str,
) -> None:
    def spoiled(sidecar: Sidecar) -> bytes:
        faces = tuple(_spoiled(face) for face in sidecar.faces)
        return stored(replace(sidecar, faces=faces, levels=round(0.8 * sidecar.levels)))  # latents off by a quarter

    stored = Sidecar.to_bytes
    monkeypatch.setattr(Sidecar, "to_bytes", spoiled)
    with pytest.raises(NotReversibleError, match=fault):
        PictureAnonymizer(tiny, models, settings(**change))([PictureTask("a", astronaut)])


def _spoiled(face: SidecarFace) -> SidecarFace:
    """One bit of the ciphertext turned."""
    source = None if face.source is None else face.source[:-1] + bytes([face.source[-1] ^ 1])
    return replace(face, source=source)


@pytest.mark.parametrize("make", [pixel_prior, ldm_prior, kl_prior])
@pytest.mark.parametrize("change", [{"fidelity": "lossless"}, {"fidelity": "latent"}])
def test_what_comes_back_is_published(
    tmp_path: Path, models: FaceModels, astronaut: bytes, make: Callable[[Path], Path], change: dict[str, object]
) -> None:
    prior = load_prior(make(tmp_path))
    (result,) = PictureAnonymizer(prior, models, settings(**change))([PictureTask("a", astronaut)])
    assert result.status == "anonymized", result.reason


def test_stored_pixels_that_are_not_the_sources_stop_the_run(
    tiny: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seal_another(source: np.ndarray, *rest: object) -> bytes:
        return seal_source(source ^ 1, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("keyanon_core.pictures.results.seal_source", seal_another)
    with pytest.raises(NotReversibleError, match=r"(\d+) of \1 pixels are not the source's"):
        PictureAnonymizer(tiny, models, settings(fidelity="lossless"))([PictureTask("a", astronaut)])


def test_the_first_face_and_then_one_in_so_many_is_tried(
    tiny: Prior, models: FaceModels, astronaut: bytes, group: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int]] = []
    monkeypatch.setattr(WayBack, "_try", lambda self, face, result, key: tried.append((key.image_id, face.index)))
    # What the second search takes for a face in an untrained prior's result is anonymized too, and would count.
    monkeypatch.setattr(models.detector, "look_again", lambda pixels: [])
    anonymizer = PictureAnonymizer(tiny, models, settings(check_every=3))
    for name, encoded in (("a", astronaut), ("b", group), ("c", astronaut), ("d", group)):
        anonymizer([PictureTask(name, encoded)])
    # Ten faces in the order of their pictures: a, b x 4, c, d x 4.
    assert tried == [("a", 0), ("b", 2), ("d", 0), ("d", 3)]


def test_a_face_too_small_for_the_picture_alone_does_not_speak_for_the_prior(
    tmp_path: Path, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Image.open(BytesIO(astronaut)).convert("RGB")
    small.thumbnail((100, 100))
    buffer = BytesIO()
    small.save(buffer, "PNG")
    prior = load_prior(pixel_prior(tmp_path, "inpaint", side=32))
    for fidelity, expected in (("image", ["large"]), ("lossless", ["small"])):
        tried: list[str] = []
        monkeypatch.setattr(WayBack, "_try", lambda self, face, result, key, tried=tried: tried.append(key.image_id))
        anonymizer = PictureAnonymizer(prior, models, settings(fidelity=fidelity, output_format="png"))
        results = anonymizer([PictureTask("small", buffer.getvalue()), PictureTask("large", astronaut)])
        assert [result.status for result in results] == ["anonymized"] * 2
        assert tried == expected


@pytest.mark.parametrize("make", [pixel_prior, ldm_prior])
def test_a_face_smaller_than_its_crop_is_not_tried_from_the_picture_alone(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = load_prior(make(tmp_path))
    tried: list[str] = []
    monkeypatch.setattr(WayBack, "_try", lambda self, face, result, key: tried.append(key.image_id))
    for name, share in (("small", 0.5), ("large", 1.1), ("as large", 1.1)):
        face = as_large_as_its_crop(prior, share)
        if name == "as large":
            just = reduction(similarity(face.landmarks, prior.landmark_template))
            monkeypatch.setattr(way_back, "HOLDING_REDUCTION", just)
        told = Told({1: [face]})
        run = PictureAnonymizer(prior, FaceModels(told, told, told), settings(fidelity="image", output_format="png"))
        (result,) = run([PictureTask(name, photograph())])
        assert result.status == "anonymized"
    assert tried == ["large", "as large"]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"fidelity": "latent"}, 45.0),
        ({"fidelity": "image"}, 30.0),
        ({"fidelity": "auto"}, 42.0),
        ({"fidelity": "auto", "output_format": "jpeg"}, 45.0),
        ({"method": "paper-inpaint"}, 15.0),
        ({"method": "paper-inpaint", "fidelity": "image"}, 15.0),
    ],
)
def test_what_must_come_back_is_more_the_better_it_is_stored(
    tiny: Prior, change: dict[str, object], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told({1: [face_at(64, 60, 80.0)]})
    for came_back, stops in ((least, False), (least - 0.1, True)):
        told_psnrs = iter([came_back, 12.0])  # of the recovered face, and of the anonymized one
        monkeypatch.setattr(way_back, "_psnr", lambda *crops, psnrs=told_psnrs: next(psnrs))
        run = PictureAnonymizer(
            tiny, FaceModels(told, told, told), settings(**{"steps": 8, "output_format": "png", **change})
        )
        if stops:
            with pytest.raises(NotReversibleError, match=f"PSNR {came_back:.1f} dB where {least:.1f} dB is wanted"):
                run([PictureTask("a", photograph())])
        else:
            assert run([PictureTask("a", photograph())])[0].status == "anonymized"


def test_a_tenth_of_the_range_is_twenty_decibels_and_what_is_no_number_is_none() -> None:
    source, mask = np.zeros((3, 4, 4)), np.eye(4, dtype=np.bool_)
    off = np.where(mask, 0.2, 9.0) + source
    assert way_back._psnr(off, source, mask) == pytest.approx(20.0)
    assert way_back._psnr(np.where(mask, 0.0, off), source, mask) == math.inf
    for fault in (math.nan, math.inf):
        assert math.isnan(way_back._psnr(source + fault, source, mask))


@pytest.mark.parametrize(("held", "least"), [(0.25, 30.0), (0.0, 15.0)])
def test_a_face_that_its_picture_can_not_show_need_only_be_nearer_than_the_anonymized_one(
    tiny: Prior, held: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way_back, "HELD_ERROR", held)
    told_psnrs = iter([least - 0.1, 12.0])
    monkeypatch.setattr(way_back, "_psnr", lambda *crops: next(told_psnrs))
    told = Told({1: [face_at(64, 60, 80.0)]})
    run = PictureAnonymizer(tiny, FaceModels(told, told, told), settings(fidelity="image", output_format="png"))
    with pytest.raises(NotReversibleError, match=f"where {least:.1f} dB is wanted"):
        run([PictureTask("a", photograph())])


def test_a_picture_that_is_read_wrongly_stops_the_run_though_its_face_is_nearer_than_the_anonymized_one(
    tiny: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(*parts: object, **options: object) -> Crop:
        cut = cut_crop(*parts, **options)  # type: ignore[arg-type]
        return replace(cut, values=cut.values + np.random.default_rng(1).normal(0, 2 / 127.5, cut.values.shape))

    monkeypatch.setattr(recoverer, "cut_crop", misread)
    told = Told({1: [face_at(64, 60, 80.0)]})
    run = PictureAnonymizer(tiny, FaceModels(told, told, told), settings(fidelity="image", output_format="png"))
    with pytest.raises(NotReversibleError, match="fidelity latent or lossless or another prior") as refused:
        run([PictureTask("a", photograph())])
    numbers = re.search(r"PSNR (\S+) dB where 30.0 dB is wanted \(anonymized: (\S+) dB\)", str(refused.value))
    assert numbers is not None
    assert float(numbers[1]) > float(numbers[2]) + 3


def test_only_the_face_that_is_due_is_recovered(
    tiny: Prior, models: FaceModels, group: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymizer = PictureAnonymizer(tiny, models, settings(check_every=1000))
    recovered: list[int] = []
    recover: Callable[..., object] = anonymizer.way_back._recoverer.recover

    def counted(*parts: object, **options: object) -> object:
        back = recover(*parts, **options)
        recovered.append(len(back.crops))  # type: ignore[attr-defined]
        return back

    monkeypatch.setattr(anonymizer.way_back._recoverer, "recover", counted)
    anonymizer([PictureTask("g", group)])
    assert recovered == [1]


def test_fewer_steps_than_a_prior_declares_are_refused(tmp_path: Path, models: FaceModels) -> None:
    root = pixel_prior(tmp_path, "inpaint")
    declare(root, name="tiny", crop_side=16, space_to_depth=2, conditioning="inpaint", min_steps=10)
    prior = load_prior(root)
    with pytest.raises(PriorError, match="at least 10"):
        PictureAnonymizer(prior, models, settings(steps=9))
    for change in ({"steps": 10}, {"fidelity": "lossless"}, {"method": "paper-inpaint"}):
        PictureAnonymizer(prior, models, settings(**{"steps": 9, **change}))


def test_a_prior_may_declare_other_steps_for_each_inversion(tmp_path: Path, models: FaceModels) -> None:
    root = pixel_prior(tmp_path, "inpaint")
    limits = {"none": 3, "ddim": 10}
    declare(root, name="tiny", crop_side=16, space_to_depth=2, conditioning="inpaint", min_steps=limits)
    prior = load_prior(root)
    for inversion, least in limits.items():
        PictureAnonymizer(prior, models, settings(inversion=inversion, steps=least))
        with pytest.raises(PriorError, match=f"inversion {inversion}; use at least {least}"):
            PictureAnonymizer(prior, models, settings(inversion=inversion, steps=least - 1))
