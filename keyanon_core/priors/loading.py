"""Loading a prior: which components a directory or a hub repository has, and a `Prior` made of them."""

from importlib.resources import files as package_files
from pathlib import Path
from typing import Final

import torch

from keyanon_core.device import usable_device
from keyanon_core.errors import PriorError
from keyanon_core.precision import STRICT
from keyanon_core.priors.declaration import DECLARATION_FILE, Declaration, parse_declaration
from keyanon_core.priors.files import PriorFiles, locate, plain_folder
from keyanon_core.priors.networks import AUTOENCODERS, DENOISERS, build_autoencoder, build_denoiser
from keyanon_core.priors.prior import Prior
from keyanon_core.priors.schedules import read_schedule
from keyanon_core.procedure import EMBEDDED

_DENOISER_FOLDERS: Final = ("unet", "transformer")
_AUTOENCODER_FOLDERS: Final = ("vqvae", "vae")
_MODEL_INDEX: Final = "model_index.json"
_SCHEDULER_CONFIG: Final = "scheduler_config.json"


def load_prior(
    source: str | Path = EMBEDDED,
    device: torch.device | str = "cpu",
    precision: str = STRICT,
    *,
    expected: str | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
) -> Prior:
    """Loads a prior in diffusers format: "embedded", a directory, or a hub id `owner/name[@revision]`.

    Only JSON and safetensors are read; weights on disk in half precision become float32.
    device: of `usable_device`. precision: of the denoiser's coarse steps, by `chosen_precision`.
    expected: digest of the one that a run was made with, None for any. offline: look a hub id up in the local cache only.
    Raises PriorError naming the file and the remedy, DeviceError.
    """
    place = usable_device(device)
    embedded = source == EMBEDDED and not Path(source).is_dir()
    root = (
        Path(str(package_files("keyanon_core"))) / "embedded_prior" if embedded else locate(source, cache_dir, offline)
    )
    files = PriorFiles(root)
    declaration = Declaration()
    if files.has("", DECLARATION_FILE):
        declaration = parse_declaration(files.json("", DECLARATION_FILE), str(root / DECLARATION_FILE))
    denoiser_folder, autoencoder_folder, scheduler_folder = _components(files)
    schedule = read_schedule(
        files.json(scheduler_folder, _SCHEDULER_CONFIG), str(root / scheduler_folder / _SCHEDULER_CONFIG)
    )
    denoiser = build_denoiser(files, denoiser_folder)
    autoencoder = None
    if autoencoder_folder is not None:
        autoencoder = build_autoencoder(files, autoencoder_folder, declaration.latent_scaling)
    prior = Prior(
        name=str(source) if not Path(source).is_dir() else root.resolve().name,
        denoiser=denoiser,
        autoencoder=autoencoder,
        schedule=schedule,
        declaration=declaration,
        digest=files.digest,
        files=files.digests,
        device=place,
        precision=precision,
    )
    if expected not in (None, prior.digest):
        raise PriorError(
            f"prior {source} has digest {prior.digest}, and the run was made with {expected}; give that prior (--prior), or, to "
            "anonymize with this one, an empty output"
        )
    return prior


def _components(files: PriorFiles) -> tuple[str, str | None, str]:
    """Folders of denoiser, autoencoder (or None) and scheduler, by `model_index.json` or by their usual names."""
    root = files.root
    if files.has("", _MODEL_INDEX):
        denoisers, autoencoders, schedulers = _indexed_components(files)
    else:
        denoisers = [f for f in _DENOISER_FOLDERS if files.has(f, "config.json")]
        autoencoders = [f for f in _AUTOENCODER_FOLDERS if files.has(f, "config.json")]
        if not denoisers and files.has("", "config.json"):
            denoisers = [""]
        schedulers = [f for f in ("scheduler", "") if files.has(f, _SCHEDULER_CONFIG)][:1]
    if len(denoisers) != 1 or len(autoencoders) > 1 or len(schedulers) != 1:
        raise PriorError(
            f"{root}: a prior has one denoiser ({' or '.join(_DENOISER_FOLDERS)}), at most one autoencoder "
            f"({' or '.join(_AUTOENCODER_FOLDERS)}) and one scheduler, each a folder with its configuration; "
            f"found {len(denoisers)}, {len(autoencoders)} and {len(schedulers)}"
        )
    return denoisers[0], autoencoders[0] if autoencoders else None, schedulers[0]


def _indexed_components(files: PriorFiles) -> tuple[list[str], list[str], list[str]]:
    where = str(files.root / _MODEL_INDEX)
    denoisers: list[str] = []
    autoencoders: list[str] = []
    schedulers: list[str] = []
    for key, value in files.json("", _MODEL_INDEX).items():
        if not isinstance(value, list) or value == [None, None]:
            continue  # the pipeline's own settings
        folder = plain_folder(key, where)
        name = value[-1] if value else None
        if name in DENOISERS:
            denoisers.append(folder)
        elif name in AUTOENCODERS:
            autoencoders.append(folder)
        elif isinstance(name, str) and name.endswith("Scheduler"):
            schedulers.append(folder)
        else:
            raise PriorError(f"{where}: component {folder} is of unknown class {name!r}; it is not loaded")
    return denoisers, autoencoders, schedulers
