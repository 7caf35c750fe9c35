"""The demo's photographs: public-domain pictures that ship inside PyPI packages, and scenes composed from them.

astronaut.png (NASA, scikit-image), grace_hopper.jpg (US Navy, matplotlib), coffee.png (scikit-image; no face).
"""

from importlib.util import find_spec
from pathlib import Path

from PIL import Image

ASTRONAUT = ("skimage", "data/astronaut.png")
GRACE_HOPPER = ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
COFFEE = ("skimage", "data/coffee.png")
TILT = 35  # degrees, of the rotated portrait


def packaged_picture(source: tuple[str, str]) -> Path:
    """Path of a picture inside an installed package. Raises FileNotFoundError with the pip command to run."""
    package, inner = source
    spec = find_spec(package)
    path = Path(spec.origin).parent / inner if spec and spec.origin else Path(inner)
    if not path.is_file():
        raise FileNotFoundError(f"{inner} of the package {package} is missing; run: pip install 'keyanon[demo]'")
    return path


def group_scene() -> Image.Image:
    """Four faces of different sizes, one tilted, one cut by the right border: 900 x 560 RGB."""
    astronaut = Image.open(packaged_picture(ASTRONAUT)).convert("RGB")
    hopper = Image.open(packaged_picture(GRACE_HOPPER)).convert("RGB")
    scene = Image.new("RGB", (900, 560), (118, 122, 128))
    scene.paste(hopper.resize((384, 450)), (0, 110))
    scene.paste(astronaut.crop((60, 0, 400, 330)), (330, 20))
    tilted = hopper.crop((100, 20, 420, 380)).rotate(TILT, resample=Image.Resampling.BICUBIC, fillcolor=(118, 122, 128))
    scene.paste(tilted.resize((220, 248)), (430, 312))
    scene.paste(astronaut.crop((110, 0, 238, 300)), (772, 130))
    return scene


def write_photographs(directory: Path) -> None:
    """Write the demo's four photographs: two portraits, a group, and a scene without a face."""
    directory.mkdir(parents=True)
    for source in (ASTRONAUT, GRACE_HOPPER, COFFEE):
        path = packaged_picture(source)
        (directory / path.name).write_bytes(path.read_bytes())
    group_scene().save(directory / "group.png")
