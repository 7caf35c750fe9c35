"""facexlib's RetinaFace and BiSeNet, for those who bring their weights.

The published .pth files are pickles. One is opened only when its sha256 is the published digest, and then by
`torch.load(weights_only=True)`; a safetensors conversion is read whatever its digest, since it can hold nothing but
numbers. Either way the digest of the very bytes that were parsed goes into the run's manifest.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, chip, invert, similarity
from keyanon_core.faces.closer import confirmed
from keyanon_core.faces.detection import Face, Pixels, in_order, without_duplicates
from keyanon_core.faces.landmarks import mean_shape_at, with_usable_landmarks
from keyanon_core.faces.looks import DEFAULT_MIN_FACE, Candidates, Search, check_min_face, lightened, look
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.parsing import check_regions, fill_polygons, landmark_hull, region_polygons
from keyanon_core.published_weights import PublishedWeights, fill

DOWNLOAD_DIRECTORY = Path("~/.cache/keyanon/facexlib")
# scores are RetinaFace's face probability
FIRST = Search(shown=16.0, tile=1536, mirrored=False, gamma=1.0, sure=0.7, doubt=0.2, confirmed=0.7)
SECOND = Search(shown=22.6, tile=1280, mirrored=True, gamma=0.5, sure=0.7, doubt=0.1, confirmed=0.6)
NMS_IOU = 0.75  # of facexlib's own suppression, within one look; `same_face` decides about what overlaps less
PLAIN_NMS_IOU = 0.4  # facexlib's default
PARSER_SIDE = 512  # px; BiSeNet's input, an FFHQ-aligned crop
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 19
# CelebAMask-HQ labels: 1 skin, 2-3 brows, 4-5 eyes, 6 glasses, 7-8 ears, 9 earring, 10 nose, 11 mouth, 12-13 lips
REGION_LABELS = {
    "skin": (1,),
    "brows": (2, 3),
    "eyes": (4, 5),
    "glasses": (6,),
    "ears": (7, 8),
    "nose": (10,),
    "mouth": (11,),
    "lips": (12, 13),
}
FACE_LABELS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
PAPER_LABELS = (*range(1, 9), *range(10, 15))  # of method `paper`: no earring, and 14, the neck
MIN_FACE_COVER = 0.5  # share of the landmarks' hull that must be labelled as face for a parse to be believed


RETINAFACE = PublishedWeights(
    "detection_Resnet50_Final",
    "https://github.com/xinntao/facexlib/releases/download/v0.1.0/detection_Resnet50_Final.pth",
    "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
)
BISENET = PublishedWeights(
    "parsing_bisenet",
    "https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth",
    "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
)


class RetinaFaceDetector:
    """RetinaFace with a ResNet-50 (Deng et al., CVPR 2020). directory: where the weights lie; None downloads them."""

    def __init__(self, directory: Path | None, device: str = "cpu", min_face: int = DEFAULT_MIN_FACE) -> None:
        check_min_face(min_face)
        with _facexlib(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision deprecates the argument by which facexlib asks for no weights
            from facexlib.detection.retinaface import RetinaFace

            self._network = RetinaFace(network_name="resnet50", device=torch.device(device))
        self.digest = _load(self._network, RETINAFACE, directory)
        self.min_face = min_face
        self.name = f"retinaface-resnet50-tiled@{min_face}px"

    def detect(self, pixels: Pixels) -> list[Face]:
        """All faces of an (H, W, 3) uint8 RGB picture, in a stable order. Raises PictureError ("too_many_faces")."""
        return in_order(without_duplicates(self._search(pixels, FIRST) or self._search(pixels, SECOND)))

    def look_again(self, pixels: Pixels) -> list[Face]:
        """What may be a face in an anonymized (H, W, 3) uint8 RGB picture, in no order, before suppression. Raises PictureError
        ("too_many_faces").
        """
        return self._search(pixels, SECOND)

    def _search(self, pixels: Pixels, search: Search) -> list[Face]:
        network = lightened(self.seen, search.gamma)
        return confirmed(pixels, network, search, look(pixels, network, search, self.min_face), self.min_face)

    def seen(self, pixels: Pixels, lowest: float, most_overlap: float = NMS_IOU) -> Candidates:
        """What the network says in one look at an (H, W, 3) uint8 RGB picture as it is: all of a score above `lowest`, but what
        overlaps a better one's box by more than `most_overlap` (IoU).
        """
        blue_green_red = np.ascontiguousarray(pixels[..., ::-1])
        with torch.no_grad():
            rows = self._network.detect_faces(blue_green_red, lowest, most_overlap)
        rows = np.asarray(rows, np.float64).reshape(-1, 15)
        return Candidates(rows[:, :4], rows[:, 5:].reshape(-1, 5, 2), rows[:, 4])


class PlainRetinaFace:
    """RetinaFace's answer to one look at a whole picture, for figures that are to be held against others' figures: no tiles, no
    enlargement, no second look at what it doubts.
    """

    def __init__(self, detector: RetinaFaceDetector, score: float) -> None:
        """score: from which on it is a face."""
        self._seen, self._score, self.digest = detector.seen, score, detector.digest
        self.name = f"retinaface-resnet50@{score:g}"

    def detect(self, pixels: Pixels) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB picture, in a stable order."""
        found = self._seen(pixels, self._score, PLAIN_NMS_IOU)
        rows = zip(found.boxes.tolist(), found.landmarks, found.scores.tolist(), strict=True)
        return in_order([Face((x0, y0, x1, y1), landmarks, score) for (x0, y0, x1, y1), landmarks, score in rows])


class BiSeNetParser:
    """BiSeNet (Yu et al., ECCV 2018) on an FFHQ-aligned crop. directory: where the weights lie; None downloads them."""

    name = "bisenet"

    def __init__(self, directory: Path | None, device: str = "cpu") -> None:
        with _facexlib():
            from facexlib.parsing.bisenet import BiSeNet

            self._network = BiSeNet(num_class=CLASSES)
        self.digest = _load(self._network, BISENET, directory)
        self._device = torch.device(device)
        self._network.to(self._device)

    def mask(self, pixels: Pixels, face: Face, regions: frozenset[str]) -> PictureMask:
        """The named regions of one face, cut at the picture's border.

        Where the network does not see a face between the five landmarks, or none of the regions, the regions are drawn
        from the mean shape of 68 landmarks: a face whose parse failed is still covered. Raises FaceModelError for an
        unknown region, PictureError ("face_outside").
        """
        check_regions(regions)
        face = with_usable_landmarks(face)
        affine = similarity(face.landmarks, UPRIGHT_TEMPLATE * PARSER_SIDE)
        labels = self._labels(chip(pixels, affine, PARSER_SIDE))
        core = fill_polygons([landmark_hull(face) @ affine[:, :2].T + affine[:, 2]], labels.shape).full(labels.shape)
        chosen = np.isin(labels, [label for region in regions for label in REGION_LABELS[region]])
        if np.isin(labels, FACE_LABELS)[core].mean() < MIN_FACE_COVER or not chosen.any():
            return fill_polygons(region_polygons(mean_shape_at(face), regions), pixels.shape)
        if "skin" in regions:
            chosen |= core
        return _to_picture(chosen, affine, pixels.shape)

    def classes(self, pixels: Pixels | npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Class (512, 512) of every place of a whole square picture (s, s, 3), which is brought to that side bilinearly and not
        rounded. pixels: uint8, or float64 on the same scale, which may go beyond it.
        """
        if pixels.shape[0] != pixels.shape[1]:
            raise ValueError(f"a picture that is parsed as a whole is square, not {pixels.shape}")
        return self._labels(pixels)

    def _labels(self, view: Pixels | npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """As `classes`."""
        values = (
            torch.from_numpy(np.ascontiguousarray(view)).to(self._device, torch.float32).permute(2, 0, 1)[None] / 255
        )
        values = torch.nn.functional.interpolate(values, (PARSER_SIDE,) * 2, mode="bilinear", antialias=True)
        mean = torch.tensor(IMAGENET_MEAN, device=self._device)[:, None, None]
        std = torch.tensor(IMAGENET_STD, device=self._device)[:, None, None]
        with torch.no_grad():
            scores = self._network((values - mean) / std)[0]
        return np.asarray(scores[0].argmax(0).cpu().numpy(), np.int64)


def paper_mask(labels: npt.NDArray[np.int64], cells: int) -> npt.NDArray[np.bool_]:
    """The mask of a latent (cells, cells) that the authors of method `paper` make of BiSeNet's classes of a picture (512, 512):
    PAPER_LABELS shrunk with antialiasing, and every cell that anything of them reaches.
    """
    chosen = torch.from_numpy(np.isin(labels, PAPER_LABELS))[None, None].to(torch.float32)
    reached = torch.nn.functional.interpolate(chosen, (cells, cells), mode="bilinear", antialias=True)[0, 0] > 0
    return np.asarray(reached.numpy(), np.bool_)


def _to_picture(chosen: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> PictureMask:
    """The picture's pixels whose centres fall into chosen pixels of the aligned crop (S, S)."""
    side, back = chosen.shape[0], invert(affine)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64) @ back[:, :2].T + back[:, 2]
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, [shape[1], shape[0]])
    if x0 >= x1 or y0 >= y1:
        raise PictureError("face_outside", "a detected face lies outside the picture")
    to_crop = affine.copy()
    to_crop[:, 2] += affine[:, :2] @ np.array([x0, y0])
    bits = cv2.warpAffine(
        chosen.astype(np.uint8), invert(to_crop), (int(x1 - x0), int(y1 - y0)), flags=cv2.INTER_NEAREST
    ).astype(np.bool_)
    mask = PictureMask((int(x0), int(y0), int(x1), int(y1)), bits).trimmed()
    if mask.count == 0:
        raise PictureError("face_outside", "none of the chosen regions of a face lies inside the picture")
    return mask


@contextlib.contextmanager
def _facexlib() -> Iterator[None]:
    """Says what to install when facexlib is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise FaceModelError(f"RetinaFace and BiSeNet need {error.name}: pip install 'keyanon[facexlib]'") from error


def _load(network: torch.nn.Module, weights: PublishedWeights, directory: Path | None) -> str:
    """Fill a network from a weight file, set it to evaluation, and return the file's sha256."""
    path = _find(weights, directory) if directory is not None else _download(weights)
    if path.suffix == ".pth":
        digest, state = weights.sha256, weights.read(path)
    else:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            state = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise FaceModelError(f"{path.name} is not a safetensors file: {error}") from error
    # the published RetinaFace was saved from DataParallel
    fill(network, {name.removeprefix("module."): tensor for name, tensor in state.items()}, path.name)
    return digest


def _find(weights: PublishedWeights, directory: Path) -> Path:
    """The safetensors conversion if there is one, else the published file."""
    for suffix in (".safetensors", ".pth"):
        path = directory / (weights.stem + suffix)
        if path.is_file():
            return path
    raise FaceModelError(
        f"{directory} holds neither {weights.stem}.safetensors nor {weights.stem}.pth; put one there, "
        f"the latter from {weights.url}"
    )


def _download(weights: PublishedWeights) -> Path:
    """The published file through facexlib's own download, kept in DOWNLOAD_DIRECTORY."""
    with _facexlib():
        from facexlib.utils import load_file_from_url
    directory = DOWNLOAD_DIRECTORY.expanduser()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return Path(load_file_from_url(weights.url, progress=False, save_dir=str(directory)))
    except OSError as error:
        raise FaceModelError(
            f"{weights.url} can not be fetched ({error}); put the file into a directory and name it with the "
            "weights option"
        ) from error
