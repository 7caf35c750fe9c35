"""What training minimises: the error of the clean crop that the denoiser predicts, inside the mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keyanon_core.priors.running import network_input
from keyanon_core.training.examples import Batch
from keyanon_core.training.settings import TrainingSettings


def training_loss(network: nn.Module, batch: Batch, alpha_bar: Tensor, settings: TrainingSettings) -> Tensor:
    """Mean over the batch of `w(t) |x0 - x0_hat|^2` a masked value, `w = snr ** snr_power` clipped to `snr_weights`.

    Near the inverse of the error left at each noise level, the weight that learned uncertainties end in (Karras et al. 2024,
    EDM2, section 2): weighted by snr alone, the noisy end, which decides what a face looks like, would hardly count.
    alpha_bar: (T,) on the batch's device.
    """
    predicted = clean_crop(network, batch, alpha_bar, settings)
    ab = alpha_bar[batch.timesteps]
    optimization = settings.optimization
    weight = ((ab / (1 - ab)) ** optimization.snr_power).clamp(*optimization.snr_weights).to(predicted.dtype)
    inside = batch.masks.expand_as(batch.crops)
    error = ((predicted - batch.crops).square() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    return (weight * error).mean()


def clean_crop(network: nn.Module, batch: Batch, alpha_bar: Tensor, settings: TrainingSettings) -> Tensor:
    """The network's x0 (B, 3, S, S) float32 for the batch's noisy states."""
    prior = settings.prior
    ab = alpha_bar[batch.timesteps].to(batch.crops.dtype)[:, None, None, None]
    state = ab.sqrt() * batch.crops + (1 - ab).sqrt() * batch.noise
    if prior.conditioning == "inpaint":
        state = state * batch.masks
    shown = network_input(state, batch.crops, batch.masks, prior.conditioning, prior.space_to_depth)
    out = network(shown.contiguous(memory_format=torch.channels_last), batch.timesteps).sample
    predicted = F.pixel_shuffle(out.float(), prior.space_to_depth)
    return predicted if prior.prediction == "sample" else ab.sqrt() * state - (1 - ab).sqrt() * predicted
