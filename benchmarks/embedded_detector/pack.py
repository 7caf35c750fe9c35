"""Packs what the second embedded detector is trained on, small enough to be carried to a machine with a GPU.

    python pack.py --portraits DIR --backgrounds DIR --output DIR

portraits: Parquet files with `image` (128 x 128, aligned to `scenes.TEMPLATE`) and `colour`. backgrounds: pictures without faces;
look at every one: a face among them teaches the network not to see faces.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
TILE = 320  # px
LONGEST = 1600  # px to which larger backgrounds are reduced
TILES = 10  # of one background: all of it, and parts
PORTRAIT_QUALITY, TILE_QUALITY = 72, 66  # of WebP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--backgrounds", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tables = [
        pq.read_table(path, columns=["image", "colour"]) for path in sorted(arguments.portraits.glob("*.parquet"))
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    rows = [rows[index] for index in rng.permutation(len(rows))]
    portraits = [_webp(Image.open(io.BytesIO(row["image"])).convert("RGB"), PORTRAIT_QUALITY) for row in rows]
    _save(arguments.output / "portraits.npz", portraits, grey=np.array([not row["colour"] for row in rows]))
    paths = [path for path in sorted(arguments.backgrounds.rglob("*")) if path.suffix.lower() in PICTURES]
    paths = [paths[index] for index in rng.permutation(len(paths))]
    _save(arguments.output / "tiles.npz", [_webp(tile, TILE_QUALITY) for path in paths for tile in _tiles(path, rng)])


def _tiles(path: Path, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The middle of a background at the smallest size that fills a tile, and parts of it at full size."""
    picture = Image.open(path).convert("RGB")
    yield _shrunk(picture, TILE / min(picture.size)).crop((0, 0, TILE, TILE))
    large = _shrunk(picture, max(TILE / min(picture.size), min(1.0, LONGEST / max(picture.size))))
    for _ in range(TILES - 1):
        x, y = (int(rng.integers(0, side - TILE + 1)) for side in large.size)
        yield large.crop((x, y, x + TILE, y + TILE))


def _shrunk(picture: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(TILE, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _webp(picture: Image.Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=quality, method=3)
    return encoded.getvalue()


def _save(path: Path, encoded: list[bytes], **columns: np.ndarray) -> None:
    """All pictures end to end, and where each of them ends."""
    ends = np.cumsum([len(one) for one in encoded])
    np.savez(path, webp=np.frombuffer(b"".join(encoded), np.uint8), ends=ends, **columns)
    print(f"{path.name}: {len(encoded)} pictures, {ends[-1] * 1e-6:.1f} MB")


if __name__ == "__main__":
    main()
