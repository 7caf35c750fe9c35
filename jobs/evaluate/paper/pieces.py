"""What the protocol takes that is not in keyanon, where its makers give it, and what can not be told without it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from jobs.errors import ConfigError
from jobs.evaluate.paper.report import IDENTITY, REALISM
from keyanon_core.evaluation.inception import WEIGHTS as INCEPTION
from keyanon_core.faces.facexlib_models import BISENET, RETINAFACE
from keyanon_core.faces.recognizers import RecognizerChoice

EVERYTHING: Final = "every table"
_LFW: Final = "all tables on LFW"
_CELEBA: Final = "all tables on CelebA-HQ"


@dataclass(frozen=True)
class Missing:
    """why: what is wrong with what was given, or that nothing was. maker: where people get it. without: what falls away. needed:
    whether nothing goes without it. lacking: the kind of table that is there and lacks it, "" for none."""

    what: str
    why: str
    option: str
    maker: str
    without: str
    needed: bool = False
    lacking: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.option}): {self.why}. From {self.maker}. Without it: {self.without}"

    def to_dict(self) -> dict[str, str]:
        """JSON types."""
        return {"what": self.what, "why": self.why, "option": self.option, "maker": self.maker, "without": self.without}


def missing_pieces(given: Mapping[str, Any]) -> list[Missing]:
    """Every piece that is not there, those without which nothing goes first. given: settings of PaperConfig as far as they are.

    Looks whether files are there, and opens none. Raises ConfigError, with all of them, where nothing goes.
    """
    missing = sorted([*_models(given), *_data_sets(given), *_recognizers(given)], key=lambda one: not one.needed)
    if any(one.needed for one in missing):
        raise ConfigError(
            "the paper's tables can not be made, and nothing was started. What is missing:\n"
            + "\n".join(f"- {'needed: ' if one.needed else ''}{one}" for one in missing)
        )
    return missing


def _models(given: Mapping[str, Any]) -> Iterator[Missing]:
    for package, extra in (("skimage", "evaluation"), ("facexlib", "facexlib")):
        if find_spec(package) is None:
            option = f"pip install 'keyanon[{extra}]'"
            yield Missing(f"package {package}", "it is not installed", option, "PyPI", EVERYTHING, needed=True)
    if why := _no_folder(given.get("prior")):
        yield Missing(
            "the diffusion prior, unconditional, with its autoencoder",
            why,
            "--prior DIR",
            "CompVis: ldm-celebahq-256 at huggingface.co, in diffusers' format; the paper's numbers are of their model of FFHQ, "
            "which has the same shape",
            EVERYTHING,
            needed=True,
        )
    for what, file in (("BiSeNet, which draws the masks", BISENET), ("RetinaFace, which finds the faces", RETINAFACE)):
        if why := _no_weights(given.get("face_weights"), file.stem):
            yield Missing(what, why, "--face-weights DIR", file.url, EVERYTHING, needed=True)
    inception = given.get("inception")
    if why := _no_file(inception):
        needed = inception is not None
        yield Missing("Inception's weights", why, "--inception FILE", INCEPTION.url, "FID", needed, REALISM)
    elif find_spec("torch_fidelity") is None:
        option = "pip install 'keyanon[evaluation]'"
        yield Missing("package torch_fidelity", "it is not installed", option, "PyPI", "FID", needed=True)


def _data_sets(given: Mapping[str, Any]) -> Iterator[Missing]:
    """What is named of a data set must be whole: who names one wants it measured."""
    lists: Sequence[Path] = given.get("lfw_pairs") or ()
    lfw = given.get("lfw") is not None or bool(lists)
    if why := _no_folder(given.get("lfw")):
        maker = "the University of Massachusetts, vis-www.cs.umass.edu/lfw: lfw.tgz, unpacked"
        yield Missing("the pictures of LFW", why, "--lfw DIR", maker, _LFW, needed=lfw)
    if why := next(filter(None, map(_no_file, lists or (None,))), ""):
        maker = "the same; pairsDevTrain.txt and pairsDevTest.txt have 1,100 and 500 matched pairs, together as many as the paper"
        yield Missing("LFW's matched pairs", why, "--lfw-pairs FILE", maker, _LFW, needed=lfw)
    celeba, listed = given.get("celeba_hq"), given.get("celeba_hq_list")
    if why := _no_folder(celeba):
        maker = "NVIDIA, github.com/tkarras/progressive_growing_of_gans, or CelebA-HQ-img of CelebAMask-HQ"
        needed = celeba is not None or listed is not None
        yield Missing("the pictures of CelebA-HQ", why, "--celeba-hq DIR", maker, _CELEBA, needed)
    if listed is not None and (why := _no_file(listed)):
        yield Missing("a list of CelebA-HQ's pictures", why, "--celeba-hq-list FILE", "you", _CELEBA, needed=True)
    if not lfw and celeba is None:
        option = "--lfw DIR with --lfw-pairs FILE, or --celeba-hq DIR"
        yield Missing("a data set", "none was given", option, "their makers, as said below", EVERYTHING, needed=True)


def _recognizers(given: Mapping[str, Any]) -> Iterator[Missing]:
    """Raises FaceModelError for what names no recognizer."""
    named = [RecognizerChoice.parse(text) for text in given.get("recognizers") or ()]
    for one in named:
        if one.file is not None and (why := _no_file(one.file)):
            what, option = f"recognizer {one.name}", f"--recognizer {one.name}=FILE"
            yield Missing(what, why, option, "whoever made it", "what it would say of people", needed=True)
    for preset, what, maker in (
        (
            "facenet",
            "FaceNet of VGGFace2",
            "github.com/timesler/facenet-pytorch, 20180402-114759-vggface2, saved as ONNX",
        ),
        ("arcface", "ArcFace-R50", "github.com/deepinsight/insightface, w600k_r50.onnx of buffalo_l"),
    ):
        if preset not in {one.preset for one in named}:
            without = f"the identity figures by {what}; the embedded recognizer tells its own"
            option = f"--recognizer {preset}=FILE"
            yield Missing(what, "none was given", option, maker, without, lacking=IDENTITY)


def _no_folder(place: Any) -> str:
    """Why there is no such folder; "" where there is, or where a bucket is asked later."""
    if place is None:
        return "none was given"
    return f"{place} is no directory" if isinstance(place, Path) and not place.is_dir() else ""


def _no_weights(folder: Path | None, stem: str) -> str:
    if folder is None or not folder.is_dir():
        return _no_folder(folder)
    names = [f"{stem}{suffix}" for suffix in (".safetensors", ".pth")]
    return "" if any((folder / name).is_file() for name in names) else f"{folder} holds neither {' nor '.join(names)}"


def _no_file(path: Path | None) -> str:
    if path is None:
        return "none was given"
    return "" if path.is_file() else f"{path} is no file"
