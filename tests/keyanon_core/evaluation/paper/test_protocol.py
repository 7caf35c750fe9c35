"""The protocol on a prior of random weights that has the paper's shapes, with a parser whose answer depends on the picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from keyanon_core.errors import ConvergenceError, EvaluationError, PictureError, PriorError
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.likeness import peak_signal_to_noise
from keyanon_core.evaluation.paper import making
from keyanon_core.evaluation.paper.models import PaperModels
from keyanon_core.evaluation.paper.pictures import celeba_view
from keyanon_core.evaluation.paper.protocol import Asked, Made, PaperProtocol
from keyanon_core.faces.detection import Face
from keyanon_core.faces.facexlib_models import paper_mask
from keyanon_core.faces.onnx_recognizer import OnnxRecognizer
from keyanon_core.methods import Recovered
from keyanon_core.pictures.stored import known_latent
from keyanon_core.priors import load_prior
from keyanon_core.sidecar import encode_surroundings
from tests.keyanon_core.diffusion.tiny_priors import ldm_prior, pixel_prior
from tests.keyanon_core.faces.tiny_recognizers import tiny_recognizer

QUALITIES = (90, 50)
DEGRADED = ["paper-jpeg-90-recovered", "paper-jpeg-50-recovered", "paper-wrong-key"]
VERSIONS = [
    *("source", "other", "paper", "paper-recovered"),
    *DEGRADED,
    *("exact", "exact-recovered"),
    *(name.replace("paper", "exact") for name in DEGRADED),
]
DISTANCES = {"distance:eye:arcface", "distance:net:facenet"}


class Outliner:
    """A face in the middle of each picture, the longer the brighter it is, and broader beyond what 8 bits hold."""

    name, digest = "outliner", "0" * 64

    def classes(self, pixels):
        labels = np.zeros((512, 512), np.int64)
        labels[130 : 300 + int(pixels.mean()) % 64, 150 : 370 if pixels.max() <= 255 else 402] = 1
        labels[:60] = 17  # hair
        return labels


class Means:
    """Features of whole pictures."""

    name, digest = "means", "1" * 64

    def __call__(self, pictures):
        return np.stack([picture.mean((0, 1)) for picture in pictures]).astype(np.float32)


@pytest.fixture(scope="module")
def paper_models(tmp_path_factory, models) -> PaperModels:
    root: Path = tmp_path_factory.mktemp("paper")
    recognizers = [
        OnnxRecognizer("eye", tiny_recognizer(root / "eye.onnx", pool=28), "arcface"),
        OnnxRecognizer("net", tiny_recognizer(root / "net.onnx", side=160, pool=40), "facenet"),
    ]
    return PaperModels(
        load_prior(ldm_prior(root / "prior", cells=64)), Outliner(), recognizers, models.detector, Means()
    )


@pytest.fixture(scope="module")
def pictures(astronaut, hopper):
    """A woman, and a man who passes for her other picture."""
    return celeba_view(astronaut), celeba_view(hopper[: hopper.shape[1], :512][:500, :500])


def inside(pixels, cells):
    return paper_mask(Outliner().classes(pixels), cells)


def crops(*of):
    return torch.from_numpy(np.stack(of).transpose(0, 3, 1, 2) / 127.5 - 1)


@pytest.fixture(scope="module")
def watched(paper_models, pictures):
    """Both pictures in every version, and what the methods were asked."""
    calls = []

    def watching(name, function):
        def called(prior, *args):
            result = function(prior, *args)
            calls.append((name, args, result))
            return result

        return called

    with pytest.MonkeyPatch.context() as patched:
        for name in ("anonymize", "recover", "decode"):
            patched.setattr(making, name, watching(name, getattr(making, name)))
        protocol = PaperProtocol(paper_models, steps=2, degraded_qualities=QUALITIES)
        made = protocol.make_all([Asked(pictures[0], pictures[1], degraded=True), Asked(pictures[1])])
    return made, calls


def test_every_version_is_measured_under_its_name(paper_models, pictures, watched, monkeypatch):
    protocol = PaperProtocol(paper_models, steps=2, degraded_qualities=QUALITIES)
    unlike = {"paper": pictures[0], "exact": np.roll(pictures[0], 90, axis=1)}
    shown = {SOURCE: pictures[0], **unlike}
    classes = {name: Outliner().classes(pictures[0]) for name in shown}
    by_hand = Made(watched[0][0].face, shown, classes, {})
    monkeypatch.setattr(protocol, "make_all", lambda asked: [*watched[0], by_hand])
    full, short, (_, same, elsewhere) = protocol.measure_all([])
    assert same.values == {
        **{
            "detected": 1.0,
            "found": 1.0,
            "mask_iou": 1.0,
            "mask_dice": 1.0,
            "psnr_picture": 100.0,
            "ssim_picture": 1.0,
            "mae_picture": 0.0,
        },
        **{name: pytest.approx(0, abs=1e-6) for name in DISTANCES},
    }
    assert (elsewhere.values["detected"], elsewhere.values["found"]) == (1.0, 0.0), "where the source's did not stand"
    assert elsewhere.view != same.view, "what stands where the face was"
    assert [face.version for face in full] == VERSIONS
    assert [face.version for face in short] == [SOURCE, "paper", "paper-recovered", "exact", "exact-recovered"]
    by_name = {face.version: face for face in full}
    assert by_name[SOURCE].values == {} and set(by_name["other"].values) == DISTANCES
    assert all((face.face, face.tone) == (0, "") and face.view[:2] == b"\xff\xd8" for face in full)
    for name in VERSIONS[2:]:
        face, shown = by_name[name], watched[0][0].versions[name]
        told = {"detected", "found", "psnr_picture", "ssim_picture", "mae_picture"}
        told |= {"solved"} if name.startswith("exact-") else set()
        told |= {"mask_iou", "mask_dice"} if name in ("paper", "exact") else set()
        assert set(face.values) == DISTANCES | told
        assert face.values["psnr_picture"] == pytest.approx(peak_signal_to_noise(pictures[0], shown))
        vectors = {"eye:arcface", "net:facenet"}
        whole = name in ("paper", "exact", "paper-recovered", "exact-recovered")
        assert set(face.vectors) == vectors | ({"features:means"} if whole else set())
        assert face.vectors["eye:arcface"] @ by_name[SOURCE].vectors["eye:arcface"] == pytest.approx(
            1 - face.values["distance:eye:arcface"], abs=1e-6
        )
    masks = [inside(one, 256) for one in (pictures[0], watched[0][0].versions["exact"])]
    assert by_name["exact"].values["mask_iou"] == (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    np.testing.assert_allclose(by_name["paper"].vectors["features:means"], watched[0][0].versions["paper"].mean((0, 1)))


def test_recovery_by_the_paper_has_the_float_picture_and_outlines_it_again(paper_models, pictures, watched):
    (made, _), calls = watched
    done = [(args, result) for name, args, result in calls if name == "anonymize" and args[4].method == "paper"]
    (((z, known, mask, keys, procedure), _),) = done
    prior = paper_models.prior
    assert procedure.steps == 2 and procedure.transform == "sign" and z is known, "the whole picture, nothing blanked"
    assert torch.equal(z, prior.encode(crops(*pictures)))
    assert torch.equal(mask[0, 0], torch.from_numpy(inside(pictures[0], 64)).double())
    shown = next(result for name, args, result in calls if name == "decode")
    assert shown.abs().max() > 1, "values that 8 bits do not hold"
    again, *degraded = [args for name, args, _ in calls if name == "recover" and args[4].method == "paper"]
    assert torch.equal(again[0], prior.encode(shown)), "neither clamped nor rounded"
    assert again[2] == keys and again[3].tolist() == [1, 1]
    anonymized = made.versions["paper"]
    assert np.array_equal(anonymized, np.rint((shown[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5))
    seen = (shown[0].numpy().transpose(1, 2, 0) + 1) * 127.5
    assert torch.equal(again[1][0, 0], torch.from_numpy(inside(seen, 64)).double())
    assert not np.array_equal(inside(seen, 64), inside(anonymized, 64)), "nor is it for the parser"
    assert not torch.equal(again[1], mask), "the two outlines differ"
    (fine, coarse, wrong) = degraded
    assert fine[2] == coarse[2] == keys[:1] and wrong[2][0] not in keys
    assert all(torch.equal(one[1], again[1][:1]) for one in degraded), (
        "copies are recovered by the outline of the picture"
    )
    assert torch.equal(wrong[0], again[0][:1])
    off = [(one[0] - again[0][:1]).abs().mean().item() for one in (fine, coarse)]
    assert 0 < off[0] < off[1], "from copies, the coarser further off"


def test_exact_comes_back_from_its_sidecar_whatever_became_of_the_picture(paper_models, pictures, watched):
    (made, _), _ = watched
    prior, source = paper_models.prior, pictures[0]
    where = inside(source, 64).repeat(4, 0).repeat(4, 1)
    mask = torch.from_numpy(where)[None, None]
    known = known_latent(prior, [encode_surroundings(crops(source)[0].numpy(), where)], mask)
    expected = prior.decode(prior.encode(crops(source)) * prior.latent_mask(mask) + known)
    expected = np.rint((expected[0].clamp(-1, 1).numpy().transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)

    def off(name):
        return peak_signal_to_noise(made.versions[name], expected, where)

    assert off("exact-recovered") > 50 > 30 > max(off("exact"), off("exact-wrong-key"))
    for name in ("exact", "exact-recovered", "exact-wrong-key"):
        assert np.array_equal(made.versions[name][~where], source[~where]), "bit for bit outside the mask"
    for quality in QUALITIES:
        copy = made.versions[f"exact-jpeg-{quality}-recovered"]
        assert np.array_equal(copy[where], made.versions["exact-recovered"][where])
        assert 20 < peak_signal_to_noise(copy, source, ~where) < 45, "the rest is the copy's"
    assert made.solved == {name: True for name in VERSIONS if name.startswith("exact-")}


def test_what_can_not_be_measured_or_solved_costs_no_other_picture(paper_models, pictures, coffee, monkeypatch):
    hidden = pictures[1][:, ::-1]

    class Blind(Outliner):
        def classes(self, pixels):
            return super().classes(pixels) * (not np.array_equal(pixels, hidden))

    class Crowded:
        """Somebody stands in the corner, larger than the one whom the picture is of."""

        name, digest = "crowded", "2" * 64

        def detect(self, pixels):
            corner = Face((192.0, 192.0, 256.0, 256.0), np.zeros((5, 2)), 0.9)
            return [corner, *found] if (found := paper_models.detector.detect(pixels)) else []

    seen = replace(paper_models, parser=Blind(), detector=Crowded(), features=None)
    protocol = PaperProtocol(seen, steps=1)
    solve, tried = making.recover, []

    def refusing(prior, latent, mask, keys, scale, procedure):
        if procedure.method == "paper":
            return solve(prior, latent, mask, keys, scale, procedure)
        tried.append(len(keys))
        if len(tried) < 3:
            raise ConvergenceError("a step")
        return Recovered(latent * 0, [], nfe=1)

    monkeypatch.setattr(making, "recover", refusing)
    nobody = celeba_view(coffee[:400, :400])
    asked = [Asked(nobody), Asked(pictures[0], nobody), Asked(pictures[0][:200]), Asked(hidden), *map(Asked, pictures)]
    *refused, first, second = protocol.make_all(asked)
    assert [error.reason for error in refused] == ["no_face", "no_face", "other_size", "no_face"]
    assert "source picture" in str(refused[0]) and "other picture" in str(refused[1])
    assert "outliner outlines 0 coordinates" in str(refused[3])
    with pytest.raises(PictureError, match="finds no face"):
        protocol.measure(nobody)

    assert [first.face.box] == [one.box for one in paper_models.detector.detect(pictures[0])]
    assert tried == [2, 1, 1], "together, then each by itself"
    assert not first.solved["exact-recovered"] and second.solved["exact-recovered"]
    assert np.array_equal(first.versions["exact-recovered"], first.versions["exact"]), "as it was published"
    assert not np.array_equal(second.versions["exact-recovered"], second.versions["exact"])


def test_priors_of_other_shapes_and_recognizers_of_one_name_are_refused(paper_models, tmp_path):
    small, pixels, inpaints = (
        load_prior(prior)
        for prior in (
            ldm_prior(tmp_path / "small"),
            pixel_prior(tmp_path / "pixels", prediction="epsilon"),
            pixel_prior(tmp_path / "inpaint", "inpaint"),
        )
    )
    for prior, why in ((small, "is of 32 px"), (pixels, "has none"), (inpaints, "method paper is not for prior")):
        with pytest.raises(PriorError, match=why):
            replace(paper_models, prior=prior)
    for recognizers in ([], paper_models.recognizers[:1] * 2):
        with pytest.raises(EvaluationError, match="a name of its own"):
            replace(paper_models, recognizers=recognizers)
    assert set(paper_models.digests()) == {
        f"prior:{paper_models.prior.name}",
        "parser:outliner",
        f"detector:{paper_models.detector.name}",
        "recognizer:eye:arcface",
        "recognizer:net:facenet",
        "features:means",
    }
