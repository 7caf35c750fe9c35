"""Trains the second embedded detector on composed scenes (`scenes`) and writes its weights and what it finds of people left out.

    python train.py --data DIR --output DIR [--minutes 7] [--batch 96]

--data holds portraits.npz and tiles.npz as `pack` makes them. Needs a GPU for anything but a trial: an H100 makes about twenty
steps a second.
"""

import argparse
import copy
import io
import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from network import CELL, FaceNetwork
from PIL import Image
from scenes import Bank, Composer, Scenes
from torch.nn import functional as F

SIDE = 256  # px of a scene
LEFT_OUT = 300  # portraits, and the last LEFT_OUT_TILES tiles, that are not trained on
LEFT_OUT_TILES = 90
PEAK = 2e-3  # learning rate
WARM_UP = 300  # steps
DECAY = 0.05  # of weights
AVERAGED = 0.999
SPREAD = 0.08  # standard deviation of the heat about a middle, in sizes
VAGUE_REACH = 0.4  # of its size, how far about a vague face nothing is asked for
WEIGHTS = {"size": 0.5, "offset": 0.5, "landmarks": 2.0}
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
CLASSES = (13, 16, 20, 28, 40, 64, 190)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--checked", type=int, default=20, help="batches of people left out")
    parser.add_argument("--peak", type=float, default=PEAK, help="learning rate")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    training, left_out = read(arguments.data, device)
    model = FaceNetwork().to(device, memory_format=torch.channels_last)
    if arguments.start:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(arguments.start))
    averaged = train(model, training, arguments.minutes * 60, arguments.batch, arguments.peak)
    save(averaged, arguments.output)
    print(check(averaged, Composer(left_out, SIDE, 1), arguments.checked, arguments.batch), flush=True)


def read(folder: Path, device: str) -> tuple[Bank, Bank]:
    """Portraits and tiles to train on, and those left out."""
    faces = np.load(folder / "portraits.npz")
    portraits = torch.from_numpy(_decode(faces["webp"], faces["ends"])).to(device)
    grey = torch.from_numpy(faces["grey"]).to(device)
    backgrounds = np.load(folder / "tiles.npz")
    tiles = torch.from_numpy(_decode(backgrounds["webp"], backgrounds["ends"])).to(device)
    print(f"{len(portraits)} portraits, {len(tiles)} tiles", flush=True)
    return (
        Bank(portraits[:-LEFT_OUT].contiguous(), grey[:-LEFT_OUT], tiles[:-LEFT_OUT_TILES].contiguous()),
        Bank(portraits[-LEFT_OUT:].contiguous(), grey[-LEFT_OUT:], tiles[-LEFT_OUT_TILES:].contiguous()),
    )


def _decode(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    starts = np.concatenate([[0], ends[:-1]])

    def one(span: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data[span[0] : span[1]].tobytes())).convert("RGB")).transpose(2, 0, 1)

    with ThreadPoolExecutor(16) as pool:
        return np.stack(list(pool.map(one, zip(starts.tolist(), ends.tolist(), strict=True))))


def targets(scenes: Scenes, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """heat (B, h, w) in [0, 1]; weight (B, h, w); which: (B, h, w) the slot whose properties a cell is to tell, -1 for none;
    cells (h, w, 2), their centres in px.
    """
    cells = side // CELL
    axis = (torch.arange(cells, device=scenes.pixels.device, dtype=torch.float32) + 0.5) * CELL - 0.5
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    heat = torch.zeros(len(scenes.pixels), cells, cells, device=places.device)
    weight, which = torch.ones_like(heat), torch.full_like(heat, -1, dtype=torch.int64)
    nearest = torch.full_like(heat, math.inf)
    for slot in range(scenes.face.shape[1]):
        size = scenes.box[:, slot].amax(-1)[:, None, None]
        middle = scenes.centre[:, slot].clamp(0, side - 1)  # of a face beyond the border, the cell nearest to it
        cell = ((middle + 0.5) / CELL).floor().clamp(0, cells - 1)
        at = (cell + 0.5) * CELL - 0.5
        offset = (places - at[:, None, None]).abs()
        spread = (SPREAD * size).clamp(min=0.6 * CELL)
        bump = torch.exp(-offset.square().sum(-1) / (2 * spread.square()))
        face = scenes.face[:, slot, None, None]
        heat = torch.maximum(heat, torch.where(face, bump, 0.0))
        far = offset.amax(-1)
        mine = face & (far < 1.5 * CELL) & (far < nearest)
        which = torch.where(mine, slot, which)
        nearest = torch.where(mine, far, nearest)
        weight = torch.where(scenes.vague[:, slot, None, None] & (far < VAGUE_REACH * size), 0.0, weight)
    return heat, torch.where(heat == 1.0, 1.0, weight), which, places


def loss(out: torch.Tensor, scenes: Scenes, side: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Penalty-reduced focal loss of the heat (Law & Deng, arXiv 1808.01244, Eq. 1) and L1 of the properties."""
    heat, weight, which, places = targets(scenes, side)
    logit = out[:, 0].float()
    score, faces = torch.sigmoid(logit), heat == 1.0
    count = faces.sum().clamp(min=1)
    positive = -F.logsigmoid(logit) * (1 - score).square() * faces
    negative = -F.logsigmoid(-logit) * score.square() * (1 - heat) ** 4 * ~faces
    parts = {"heat": ((positive + negative) * weight).sum() / count}
    batch, row, column = torch.nonzero(which >= 0, as_tuple=True)
    slot = which[batch, row, column]
    said = out[batch, 1:, row, column].float()
    at, box = places[row, column], scenes.box[batch, slot]
    landmarks = (scenes.landmarks[batch, slot] - scenes.centre[batch, slot][:, None]) / box.amax(-1)[:, None, None]
    norm = max(len(slot), 1)
    parts["size"] = (said[:, :2] - (box / CELL).log()).abs().sum() / norm
    offset = (scenes.centre[batch, slot] - at) / CELL
    precision = (16.0 / box.amax(-1)).clamp(max=1)[:, None]  # a cell is little of a large face
    parts["offset"] = ((said[:, 2:4] - offset).abs() * precision).sum() / norm
    parts["landmarks"] = (said[:, 4:].reshape(-1, 5, 2) - landmarks).abs().sum() / norm
    total = parts["heat"] + sum(WEIGHTS[name] * parts[name] for name in WEIGHTS)
    return total, {name: float(part.detach()) for name, part in parts.items()} if torch.rand(()) < 0.01 else {}


def train(model: FaceNetwork, bank: Bank, seconds: float, batch: int, peak: float) -> FaceNetwork:
    """Train for so long and return the averaged weights."""
    device = bank.portraits.device
    composer = Composer(bank, SIDE, 0)
    averaged = copy.deepcopy(model).eval()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, fused=device.type == "cuda")
    source = (scenes for _ in itertools.count() for scenes in composer(batch))
    started, step, said = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        done = elapsed / seconds
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        with torch.no_grad():
            scenes = next(source)
        pixels = scenes.pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            out = model.logits(pixels)
        total, parts = loss(out, scenes, SIDE)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        step += 1
        keep = min(AVERAGED, step / (step + 30))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), [p.detach() for p in model.parameters()], 1 - keep)
            for mine, its in zip(averaged.buffers(), model.buffers(), strict=True):
                mine.copy_(its)
        if parts and elapsed - said > 8:
            said = elapsed
            print(f"{elapsed:.0f} s, step {step}, " + ", ".join(f"{k} {v:.3f}" for k, v in parts.items()), flush=True)
    print(f"{step} steps, {step * batch} scenes", flush=True)
    return averaged


@torch.no_grad()
def check(model: FaceNetwork, composer: Composer, batches: int, batch: int) -> str:
    """Recall by size and wrong finds per megapixel, at several scores."""
    found: dict[float, list[tuple[float, bool]]] = {threshold: [] for threshold in THRESHOLDS}
    wrong = dict.fromkeys(THRESHOLDS, 0)
    for _ in range(batches):
        scenes = next(composer(batch))
        heat, rest = model(scenes.pixels)
        peaks = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat >= THRESHOLDS[0])
        for index in range(batch):
            row, column = torch.nonzero(peaks[index, 0], as_tuple=True)
            score = heat[index, 0, row, column]
            cell = (torch.stack([column, row], -1) + 0.5) * CELL - 0.5
            centre = cell + rest[index, 2:4, row, column].T * CELL
            size = scenes.box[index].amax(-1)
            distance = torch.cdist(scenes.centre[index], centre.float()) / size[:, None]
            known = scenes.face[index] | scenes.vague[index]
            near = distance < 0.3
            for threshold in THRESHOLDS:
                seen = score >= threshold
                hits = (near & seen).any(1)
                found[threshold] += [
                    (float(size[k]), bool(hits[k])) for k in torch.nonzero(scenes.face[index])[:, 0].tolist()
                ]
                wrong[threshold] += int((seen & ~(near & known[:, None]).any(0)).sum())
    pixels = batches * batch * SIDE**2 * 1e-6
    lines = []
    for threshold in THRESHOLDS:
        sizes, hits = (np.array(values) for values in zip(*found[threshold], strict=True))
        classes = [(sizes >= low) & (sizes < high) for low, high in itertools.pairwise(CLASSES)]
        cells = " ".join(
            f"{low}+: {100 * hits[chosen].mean():.1f}" for low, chosen in zip(CLASSES, classes, strict=False)
        )
        lines.append(
            f"score {threshold}: {100 * hits.mean():.2f} % of {len(hits)} ({cells}), "
            f"{wrong[threshold] / pixels:.2f} wrong a megapixel"
        )
    return "\n".join(lines)


def save(model: FaceNetwork, folder: Path) -> None:
    """Weights as safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "detector.safetensors")


if __name__ == "__main__":
    main()
