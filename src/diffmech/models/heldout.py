"""Does the model denoise, and how much did it memorise? Losses of the intact denoiser on the images of the study. Ours.

Skill is 1 - loss / baseline. The baseline is the best prediction that needs no network: c x_t, with the one constant c
per timestep that fits the noise best (least squares over the same images). It knows the variance of the images and
nothing else; predicting zero, c = 0, is never better. `slope` is the factor by which the prediction would have to be
multiplied to fit best, sum(eps_hat eps) / sum(eps_hat^2): a minimum of the mean squared error has 1, so that another
value tells of a denoiser that is told another level of noise than the images have (a wrong schedule, scaled timesteps,
another scale of the images), or was never fitted to such images.

Seen and unseen images are told apart only where it is on record on which images this denoiser was trained. Where none
of a data set that can be made from numbers were, some of those of the training are made again, prepared like these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffmech.artifacts import progress
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.data.groups import GroupTables, groups_of
from diffmech.data.made_again import MadeAgain
from diffmech.data.store import ImageSet, open_dataset
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.prompted import PromptedDenoiser
from diffmech.models.schedules import check_timesteps
from diffmech.models.tables import DENOISING, HELDOUT
from diffmech.randomness import noise
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic, bootstrap_two_groups
from diffmech.statistics.units import Groups, over_units
from diffmech.tables import ALL
from diffmech.training.images import attribute_values
from diffmech.training.record import TrainingRecord, record_of

# More images would cost passes and narrow intervals that are a few per cent wide already.
MOST_IMAGES = 64


@dataclass(frozen=True)
class Moments:
    """Means over the pixels of each image, `(sample,)`: of the squared error, and of products of x_t, eps, eps_hat."""

    loss: np.ndarray
    image_image: np.ndarray
    image_noise: np.ndarray
    noise_noise: np.ndarray
    predicted_predicted: np.ndarray
    predicted_noise: np.ndarray

    def over(self, units: Groups) -> "Moments":
        """Return the means over the images of each unit."""
        return Moments(**{name: over_units(values, units) for name, values in vars(self).items()})

    def of(self, rows: np.ndarray) -> "Moments":
        """Return the moments of some images, `rows` (sample,) booleans."""
        return Moments(**{name: values[rows] for name, values in vars(self).items()})


@in_smaller_batches
def heldout_loss(
    model_json: Path,
    datasets: Mapping[str, Path],
    output_csv: Path,
    denoising_csv: Path,
    *,
    timesteps: Sequence[int],
    samples: int,
    condition: str = "full",
    seed: int = 0,
    draws: int = 2000,
    confidence: float = 0.95,
    unseen: bool = False,
    runtime: RuntimeConfig,
    groups: GroupTables | None = None,
) -> None:
    """Write two tables, both with bootstrap intervals over images, of at most `samples` images per domain, and 64.

    `denoising_csv` (the table `denoising`) is of the unseen images alone where `unseen` are studied.

    `output_csv` (the table `heldout`) has rows of those domains alone of whose images it is on record whether the
    denoiser was trained on them. Split is `train` or `heldout`, half of the images each where there are as many, evenly
    spread over the ids; where none was trained on, a third are images of the training that are made again, if they can
    be. The timestep "all" has the means over timesteps, of the ratios too.

    Where `groups` are given (tables by domain) intervals resample groups of images, n is their number, and an image is
    unseen though others of its group may have been trained on. `condition` is that of the study, "full" or "null".
    Noise belongs to (seed, sample id, timestep). Raises ConfigError for a timestep the diffusion does not have, or at
    which no image is left. Of a pipeline nobody here knows the noise or the training images: both tables stay empty.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    known = not isinstance(denoiser, PromptedDenoiser)
    if known:
        check_timesteps(timesteps, denoiser.alphas_cumprod)
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    seen: list[dict[str, object]] = []
    fits: list[dict[str, object]] = []
    record = record_of(model_json)
    for domain, path in datasets.items() if known else ():
        images, most = open_dataset(Path(path)), min(samples, MOST_IMAGES)
        seen_before = None if record is None else record.seen(images)
        fresh = seen_before is not None and not seen_before.any()
        again = seen_again(record, images, most // 3) if fresh else None
        splits = chosen_images(images.ids, seen_before, most - (0 if again is None else len(again.ids)))
        ids = np.concatenate(list(splits.values()))
        split = np.repeat(list(splits), [len(part) for part in splits.values()])
        units = groups_of(groups or {}, domain, ids)
        fitted = (split != "train") | (not unseen or "heldout" not in splits)
        losses: dict[int | str, np.ndarray] = {}
        for timestep in progress(timesteps, f"loss {domain}", show=runtime.progress):
            at: tuple[Any, ...] = (timestep, seed, runtime.batch_size)
            measured = moments(denoiser, images, domain, ids, *at, condition=condition)
            fits.append(
                {
                    "domain": domain,
                    "timestep": timestep,
                    **fit_of(measured.of(fitted).over(None if units is None else units[fitted]), **settings),
                }
            )
            losses[timestep] = measured.loss
            if again is not None:
                more = moments(denoiser, again, domain, again.ids, *at, condition=condition)
                losses[timestep] = np.concatenate([losses[timestep], more.loss])
        if again is not None:
            split = np.append(split, np.repeat("train", len(again.ids)))
            more_units = [f"made again {k}" for k in range(len(again.ids))]
            units = None if units is None else np.append(units, more_units)
        if seen_before is not None:
            rows = seen_and_unseen(losses, split, units, **settings)
            seen += [{"domain": domain, **row, "timestep": str(row["timestep"])} for row in rows]
    HELDOUT.write(output_csv, HELDOUT.frame(seen))
    DENOISING.write(denoising_csv, DENOISING.frame(fits))


def chosen_images(ids: np.ndarray, seen: np.ndarray | None, most: int) -> dict[str, np.ndarray]:
    """Return at most `most` ids, evenly spread, by split: `train` and `heldout`, or `unknown` where `seen` is None."""
    if seen is None:
        return {"unknown": _spread(ids, most)}
    train, kept = ids[seen], ids[~seen]
    half = min(len(kept), max(most // 2, most - len(train)))
    splits = {"train": _spread(train, most - half), "heldout": _spread(kept, half)}
    return {name: part for name, part in splits.items() if len(part)}


def seen_again(record: TrainingRecord | None, images: ImageSet, most: int) -> MadeAgain | None:
    """Return at most `most` images of the training, evenly spread, made again like `images`; None where none can be."""
    numbers = np.zeros(0) if record is None else record.trained_numbers(images)
    return MadeAgain(images, _spread(numbers, most)) if len(numbers) and most else None


def _spread(ids: np.ndarray, most: int) -> np.ndarray:
    return ids[np.unique(np.linspace(0, len(ids) - 1, min(most, len(ids))).astype(int))]


def moments(
    denoiser: Denoiser,
    images: ImageSet | MadeAgain,
    domain: str,
    ids: np.ndarray,
    timestep: int,
    seed: int,
    batch_size: int,
    *,
    condition: str = "full",
) -> Moments:
    """Return what the losses at one timestep are made of, of the images `ids`."""
    share = float(denoiser.alphas_cumprod[timestep])
    index = denoiser.domains.index(domain) if domain in denoiser.domains else -1
    parts = []
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        added = torch.from_numpy(np.stack([noise(seed, int(i), timestep, denoiser.sample_shape) for i in part]))
        x_t = share**0.5 * torch.from_numpy(images.images(part)) + (1 - share) ** 0.5 * added
        values = torch.from_numpy(attribute_values(images, part, denoiser.attributes))
        told = Condition(torch.full((len(part),), index, dtype=torch.long), values)
        with torch.no_grad():
            given = told if condition == "full" else told.null_like()
            predicted = denoiser.predict_noise(x_t.to(denoiser.device), timestep, given).cpu()
        x, eps, guess = (each.double().flatten(1) for each in (x_t, added, predicted))
        pairs = ((guess - eps, guess - eps), (x, x), (x, eps), (eps, eps), (guess, guess), (guess, eps))
        parts.append(np.stack([(first * second).mean(1).numpy() for first, second in pairs]))
    return Moments(*np.concatenate(parts, axis=1))


def fit_of(measured: Moments, **settings: Any) -> dict[str, float]:
    """Return loss, baselines, skill and slope of the images of one domain at one timestep."""
    skill = bootstrap_statistic(
        lambda loss, xx, xe, ee: 1 - loss / (ee - xe**2 / xx),
        *(measured.loss, measured.image_image, measured.image_noise, measured.noise_noise),
        **settings,
    )
    slope = bootstrap_statistic(
        lambda both, own: both / own, measured.predicted_noise, measured.predicted_predicted, **settings
    )
    xx, xe, ee = (v.mean() for v in (measured.image_image, measured.image_noise, measured.noise_noise))
    return {
        "loss": float(measured.loss.mean()),
        "zero": float(ee),
        "linear": float(ee - xe**2 / xx),
        **_ends("skill", skill),
        **_ends("slope", slope),
        "n": len(measured.loss),
    }


def seen_and_unseen(
    losses: Mapping[int | str, np.ndarray], split: np.ndarray, units: Groups = None, **settings: Any
) -> list[dict[str, object]]:
    """Return the rows of the held-out table of one domain: `losses[timestep]`, `split` and `units` are `(sample,)`."""
    rows: list[dict[str, object]] = []
    both = set(split) >= {"train", "heldout"}
    per_split: dict[str, dict[int | str, np.ndarray]] = {}
    for name in dict.fromkeys(split.tolist()):
        of = None if units is None else units[split == name]
        own = {timestep: over_units(values[split == name], of) for timestep, values in losses.items()}
        per_split[name] = own | ({ALL: np.mean(list(own.values()), axis=0)} if own else {})
    for name, own in per_split.items():
        for timestep, values in own.items():
            row: dict[str, object] = {"split": name, "timestep": timestep, "n": len(values)}
            loss = bootstrap_mean(values, **settings)
            row |= {"loss": float(loss.estimate), "low": float(loss.low), "high": float(loss.high)}
            if both and name == "heldout":
                steps = list(losses) if timestep == ALL else [timestep]
                ratio = bootstrap_two_groups(
                    mean_ratio,
                    [per_split["heldout"][t] for t in steps],
                    [per_split["train"][t] for t in steps],
                    **settings,
                )
                row |= _ends("relative", ratio)
            rows.append(row)
    return rows


def mean_ratio(*means: np.ndarray) -> np.ndarray:
    """Return the mean over timesteps of unseen / seen: the first half of `means` is of unseen images."""
    half = len(means) // 2
    return np.mean([unseen / seen for unseen, seen in zip(means[:half], means[half:], strict=True)], axis=0)


def denoising_losses(
    denoiser: Denoiser, images: ImageSet, domain: str, ids: np.ndarray, timestep: int, seed: int, batch_size: int
) -> np.ndarray:
    """Return the mean squared error of the predicted noise of each image at one timestep, `(sample,)`."""
    return moments(denoiser, images, domain, ids, timestep, seed, batch_size).loss


def _ends(name: str, interval: Any) -> dict[str, float]:
    return {
        name: float(interval.estimate),
        f"{name}_low": float(interval.low),
        f"{name}_high": float(interval.high),
    }
