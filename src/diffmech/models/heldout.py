"""The denoising loss on images the denoiser was trained on and on images it never saw: how much it memorised. Ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from diffmech.artifacts import progress, write_csv
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.data.store import ImageSet, open_dataset
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.prompted import PromptedDenoiser
from diffmech.models.training_set import attribute_values, is_held_out
from diffmech.randomness import noise
from diffmech.statistics.bootstrap import bootstrap_mean

# More images would cost passes and narrow an interval that is a few per cent wide already.
MOST_IMAGES = 400


@in_smaller_batches
def heldout_loss(
    model_json: Path,
    datasets: Mapping[str, Path],
    output_csv: Path,
    *,
    timesteps: Sequence[int],
    holdout: int,
    samples: int,
    seed: int = 0,
    draws: int = 2000,
    confidence: float = 0.95,
    runtime: RuntimeConfig,
) -> None:
    """Write the mean squared error of the predicted noise: domain, split, timestep, loss, low, high, n.

    Split is `train` or `heldout`; at most `samples` images of each, and 400, evenly spread over the ids; the
    interval is a bootstrap over images. Noise belongs to (seed, sample id, timestep). Raises ConfigError for a timestep
    the diffusion does not have. Of a pipeline nobody here knows the training images: the table stays empty.
    """
    columns = ["domain", "split", "timestep", "loss", "low", "high", "n"]
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    if isinstance(denoiser, PromptedDenoiser):
        write_csv(Path(output_csv), pd.DataFrame(columns=columns))
        return
    late = [t for t in timesteps if not 0 <= t < denoiser.timesteps]
    if late:
        raise ConfigError(
            f"capture.timesteps: {late[0]} is not below the {denoiser.timesteps} steps of the denoiser's scheduler"
        )
    rows = []
    for domain, path in datasets.items():
        images = open_dataset(Path(path))
        held_out = is_held_out(images.ids, holdout)
        for split, ids in (("train", images.ids[~held_out]), ("heldout", images.ids[held_out])):
            if len(ids) == 0:
                continue
            chosen = ids[np.unique(np.linspace(0, len(ids) - 1, min(samples, MOST_IMAGES, len(ids))).astype(int))]
            for timestep in progress(timesteps, f"loss {domain} {split}", show=runtime.progress):
                losses = denoising_losses(denoiser, images, domain, chosen, timestep, seed, runtime.batch_size)
                loss = bootstrap_mean(losses, draws=draws, confidence=confidence, seed=seed)
                rows.append((domain, split, timestep, loss.estimate, loss.low, loss.high, len(chosen)))
    write_csv(Path(output_csv), pd.DataFrame(rows, columns=columns))


def denoising_losses(
    denoiser: Denoiser, images: ImageSet, domain: str, ids: np.ndarray, timestep: int, seed: int, batch_size: int
) -> np.ndarray:
    """Return the mean squared error of the predicted noise of each image at one timestep, `(sample,)`."""
    share = float(denoiser.alphas_cumprod[timestep])
    index = denoiser.domains.index(domain) if domain in denoiser.domains else -1
    losses = []
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        added = torch.from_numpy(np.stack([noise(seed, int(i), timestep, denoiser.sample_shape) for i in part]))
        x_t = share**0.5 * torch.from_numpy(images.images(part)) + (1 - share) ** 0.5 * added
        values = torch.from_numpy(attribute_values(images, part, denoiser.attributes))
        condition = Condition(torch.full((len(part),), index, dtype=torch.long), values)
        with torch.no_grad():
            predicted = denoiser.predict_noise(x_t.to(denoiser.device), timestep, condition).cpu()
        losses.append((predicted - added).square().flatten(1).mean(1).double().numpy())
    return np.concatenate(losses)
