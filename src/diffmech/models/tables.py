"""The tables about denoisers: their training, their losses, and what they were trained on."""

from diffmech.data.tables import DOMAIN, SAMPLE
from diffmech.tables import Table, flag, interval, number, text, whole
from diffmech.training.tables import history_table

HO = "Ho et al. 2020, eq. 14"
TIMESTEP = whole("timestep of the scheduler, 0 = clean image", "")
N = whole("images, or groups of them where those are known", "1")

SEEN = Table(
    name="seen",
    path="results/models/{model}/seen.csv",
    row="a studied image of which it is on record whether the denoiser was trained on it",
    about="Which of the studied images the denoiser was trained on.",
    columns={"domain": DOMAIN, "sample": SAMPLE, "seen": flag("whether the denoiser was trained on this image")},
)

HELDOUT = Table(
    name="heldout",
    path="results/models/{model}/heldout.csv",
    row="a timestep (or all) on the images of one domain that were seen, or not seen, in training",
    about="The denoising loss on images of the training and on images that were kept out of it.",
    columns={
        "domain": DOMAIN,
        "split": text("train: images of the training; heldout: images kept out of it"),
        "timestep": text("timestep of the scheduler, or all for the mean over them"),
        "loss": number("mean squared error of the predicted noise", "1", HO),
        **interval("the loss"),
        "relative": number("loss on images kept out of training over that on images of it; all: mean of the ratios"),
        **interval("that ratio", prefix="relative_"),
        "n": N,
    },
)

DENOISING = Table(
    name="denoising",
    path="results/models/{model}/denoising.csv",
    row="a timestep in one domain",
    about="Whether the denoiser denoises these images at all: its loss beside those of predictions without a network.",
    columns={
        "domain": DOMAIN,
        "timestep": TIMESTEP,
        "loss": number("mean squared error of the predicted noise", "1", HO),
        "zero": number("the same of predicting no noise"),
        "linear": number("the same of the best constant multiple of the noised image"),
        "skill": number("1 - loss / linear: 1 = perfect, 0 = no better than scaling the input"),
        **interval("the skill", prefix="skill_"),
        "slope": number("factor by which the prediction would fit best; about 1 for a denoiser in its own diffusion"),
        **interval("the factor", prefix="slope_"),
        "n": N,
    },
)

HISTORY = history_table(
    "history", "results/models/{model}/history.csv", "How the training of a denoiser went.", source=HO
)
