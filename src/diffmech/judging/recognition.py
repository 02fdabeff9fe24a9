"""Do generated images show the attributes they were asked for? A classifier trained on drawn faces is the judge. Ours.

Its own accuracy on faces it never saw is stated beside its verdict: a share of samples recognised above that accuracy
says nothing more.
"""

from pathlib import Path

from scipy.stats import binomtest

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import RecognitionConfig, SamplingConfig
from diffmech.judging.judge import read_judge
from diffmech.judging.tables import RECOGNITION
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import drawn_condition, sample_images

CONFIDENCE = 0.95


def check_recognition(
    model_json: Path,
    judge_file: Path,
    output_csv: Path,
    *,
    recognition: RecognitionConfig,
    sampling: SamplingConfig,
    runtime: RuntimeConfig,
) -> None:
    """Write how often samples show the attributes that were asked for, by a judge.

    A row `glasses` holds the share of samples asked for with glasses = 1 in which glasses are seen, a row `no glasses`
    the share of samples asked for with glasses = 0 in which none are; all other attributes are drawn. The interval is
    Wilson's (1927). `judge_file` is that of `make_judge`. Raises ModelError when there is no judge for this denoiser.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    judge = read_judge(judge_file, device=runtime.device)
    rows = []
    for column, attribute in enumerate(judge.attributes):
        for value, label in ((1.0, attribute), (0.0, f"no {attribute}")):
            condition = drawn_condition(denoiser, recognition.samples, recognition.seed, fixed={attribute: value})
            samples = sample_images(
                denoiser,
                condition,
                steps=sampling.steps,
                guidance=sampling.guidance,
                seed=recognition.seed,
                runtime=runtime,
            )
            seen = judge.recognises(samples)[:, column]
            right = int((seen == bool(value)).sum())
            low, high = wilson_interval(right, len(seen), CONFIDENCE)
            rows.append((label, judge.accuracy[column], right / len(seen), low, high, len(seen)))
    RECOGNITION.write(output_csv, RECOGNITION.frame(rows))


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927), which is sensible at 0 and 1 too."""
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)
