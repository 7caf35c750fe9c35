"""The files of a prior: where they are, what they are called, and the digest of each one that is read.

Each file is read once, hashed and then parsed from the same bytes, so what is hashed is what is used. Only JSON and
safetensors are ever opened: a pickle can run code when it is loaded.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from keyanon_core.errors import PriorError

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?")
"""`owner/name`, optionally `@revision`."""

HUB_PATTERNS: Final = ("*.json", "*.safetensors")
MAX_JSON_BYTES: Final = 4 << 20
"""Bytes; the index of a very large sharded checkpoint is below this."""

WEIGHTS_STEM: Final = "diffusion_pytorch_model"
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def locate(source: str | Path, cache_dir: Path | None = None, offline: bool = False) -> Path:
    """The directory of a prior: a local path, or a hub id whose JSON and safetensors files are fetched or cached."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists() or not HUB_ID.fullmatch(str(source)):
        raise PriorError(
            f"{source}: no such prior; give a directory in diffusers format or a hub id such as owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = str(source).partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(HUB_PATTERNS),
                cache_dir=cache_dir,
                local_files_only=offline,
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise PriorError(
            f"{source}: not a directory here, and the hub could not be reached or does not have it "
            f"({type(error).__name__}); download it where there is a network and give its directory"
        ) from error


class PriorFiles:
    """Reads files below one directory and remembers the sha256 of each (`digests`, by relative POSIX path)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digests: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """sha256 over the lines `sha256 path`, sorted by path: one name for everything that was read."""
        lines = "".join(f"{self.digests[path]} {path}\n" for path in sorted(self.digests))
        return hashlib.sha256(lines.encode()).hexdigest()

    def has(self, folder: str, name: str) -> bool:
        return (self.root / folder / name).is_file()

    def _read(self, folder: str, name: str, limit: int | None = None) -> bytes:
        path = self.root / folder / name
        try:
            if limit is not None and path.stat().st_size > limit:
                raise PriorError(f"{path}: larger than {limit} bytes; this is not a configuration")
            content = path.read_bytes()
        except OSError as error:
            raise PriorError(f"{path}: can not be read ({error.strerror}); the prior is incomplete") from error
        self.digests[Path(folder, name).as_posix()] = hashlib.sha256(content).hexdigest()
        return content

    def json(self, folder: str, name: str) -> dict[str, Any]:
        """A JSON object; raises PriorError for anything else."""
        try:
            values = json.loads(self._read(folder, name, MAX_JSON_BYTES))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise PriorError(f"{self.root / folder / name}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise PriorError(f"{self.root / folder / name}: must hold a JSON object")
        return values

    def weights(self, folder: str) -> dict[str, Tensor]:
        """All tensors of a component, as float32; raises PriorError for pickles, damaged files and non-finite values."""
        tensors: dict[str, Tensor] = {}
        for name in self._weight_files(folder):
            where = self.root / folder / name
            try:
                loaded = safetensors.torch.load(self._read(folder, name))
            except safetensors.SafetensorError as error:
                raise PriorError(f"{where}: not a safetensors file ({error})") from error
            for key, tensor in loaded.items():
                value = tensor.float() if tensor.is_floating_point() else tensor
                if not bool(torch.isfinite(value).all()):
                    raise PriorError(f"{where}: {key} holds values that are not finite; the file is damaged")
                tensors[key] = value
        return tensors

    def _weight_files(self, folder: str) -> list[str]:
        directory = self.root / folder
        plain = f"{WEIGHTS_STEM}.safetensors"
        if self.has(folder, plain):
            return [plain]
        if self.has(folder, f"{plain}.index.json"):
            index = self.json(folder, f"{plain}.index.json").get("weight_map")
            names = sorted({str(name) for name in index.values()}) if isinstance(index, dict) else []
            if bad := [n for n in names if not _PLAIN_NAME.fullmatch(n) or not n.endswith(".safetensors")]:
                raise PriorError(
                    f"{directory}: its index names {bad[0]!r}, which is not a safetensors file in this folder"
                )
            if names:
                return names
        found = sorted(p.name for p in directory.glob("*.safetensors"))
        if len(found) == 1:
            return found
        if pickled := sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES):
            raise PriorError(
                f"{directory / pickled[0]}: pickled weights are not loaded, because a pickle can run code; convert "
                "them in a sandbox with safetensors.torch.save_file, or take a revision that holds safetensors"
            )
        raise PriorError(f"{directory}: {len(found)} safetensors files, expected {plain}")


def plain_folder(name: object, where: str) -> str:
    """A component's folder as named by `model_index.json`; raises PriorError unless it is one plain name."""
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name) or ".." in name:
        raise PriorError(f"{where}: component {name!r} is not a plain folder name")
    return name
