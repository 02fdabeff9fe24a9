"""What looks at images: a feature space for distances between sets, and a judge of attributes.

The default for both is the classifier of drawn faces that the workflow trains. CLIP (Radford et al. 2021) gives its
projected image embedding, and attributes by a pair of texts: the logit is its scaled similarity to the text that shows
the attribute minus that to the one that does not (zero-shot, as there). An Inception network (Heusel et al. 2017) is
the user's own TorchScript file. What cannot be measured is named with its reason, never left out in silence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from diffmech.config.judging import JudgesConfig
from diffmech.errors import ConfigError, ModelError
from diffmech.judging.detector import open_detector
from diffmech.judging.judge import Judge, read_judge
from diffmech.training.device import resolve_device

BATCH = 256
# Mean and spread per channel that OpenAI's CLIP was trained with, for folders that do not say otherwise.
CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Reader = Callable[[Tensor], np.ndarray]


@dataclass(frozen=True)
class Panel:
    """What looks at images in [-1, 1], `(image, channel, y, x)`, and what is not measured, each with its reason.

    `features` returns `(image, feature)` in the feature space `space`; `logits` returns `(image, attribute)` and
    `detector` probabilities of the last attributes, `(image, attribute)`; each is None where there is none. `accuracy`
    is that of the trained judge by attribute.
    """

    space: str
    features: Reader | None
    judge: str
    attributes: tuple[str, ...]
    logits: Reader | None
    accuracy: dict[str, float]
    absent: tuple[str, ...]
    detector: Reader | None = None

    def probabilities(self, images: Tensor) -> np.ndarray:
        """Return how sure the judge is of each attribute, `(image, attribute)`; no column where there is no judge."""
        found = [np.empty((len(images), 0))]
        if self.logits is not None:
            found.append(expit(self.logits(images).astype(np.float64)))
        if self.detector is not None:
            found.append(self.detector(images))
        return np.hstack(found)


def open_panel(
    judges: JudgesConfig,
    judge_file: Path | str | None,
    *,
    device: str = "auto",
    section: str = "resampling",
    root: Path | str = ".",
) -> Panel:
    """Return what looks at the images. `judge_file` is that of the trained judge, None where none was asked for;
    `section` is how config.yaml calls `judges`, and `root` the project, from which the path of a detector may count.

    Raises ModelError for a CLIP model, an Inception or a detector that cannot be read, ConfigError for attributes that
    the judge does not know.
    """
    judge, why = _trained(judge_file, device)
    absent = []
    clip = _Clip(judges.clip, device, section) if judges.clip else None
    features: Reader | None = None
    if judges.features == "judge":
        if judge is None:
            absent.append(f"Frechet and kernel distance: no trained judge gives features ({section}.features); {why}")
        else:
            features = lambda images: judge.sees(images)[0]  # noqa: E731
    elif judges.features == "clip":
        assert clip is not None
        features = clip.embedded
    else:
        features = _inception(str(judges.inception), device, section)
    attributes: tuple[str, ...] = ()
    logits: Reader | None = None
    accuracy: dict[str, float] = {}
    if judges.text_attributes:
        assert clip is not None
        attributes = tuple(judges.text_attributes)
        logits = clip.judging(list(judges.text_attributes.values()))
    elif judge is None and judges.detector is None:
        absent.append(f"attributes: nothing judges them; {why}")
    elif judge is not None and judges.attributes != []:
        attributes = tuple(name for name in _chosen(judge, judges.attributes, section) if name not in judges.detected)
        columns = [judge.attributes.index(name) for name in attributes]
        logits = lambda images: judge.sees(images)[1][:, columns]  # noqa: E731
        accuracy = {name: float(judge.accuracy[column]) for name, column in zip(attributes, columns, strict=True)}
    who = [f"CLIP ({judges.clip})" if judges.text_attributes else "the trained judge"] if attributes else []
    detector = None
    if judges.detector is not None:
        detector = open_detector(judges.detector, root=Path(root), section=section)
        who.append(judges.detector.function)
    return Panel(
        space={"judge": "the trained judge", "clip": f"CLIP ({judges.clip})", "inception": "Inception"}[
            judges.features
        ],
        features=features,
        judge=" and ".join(who),
        attributes=(*attributes, *judges.detected),
        logits=logits,
        accuracy=accuracy,
        absent=tuple(absent),
        detector=detector,
    )


def _trained(judge_file: Path | str | None, device: str) -> tuple[Judge | None, str]:
    if judge_file is None:
        return None, "prompts name no attributes; name a CLIP model and text_attributes, or a detector"
    try:
        return read_judge(Path(judge_file), device=device), ""
    except ModelError as error:
        return None, str(error)


def _chosen(judge: Judge, names: Sequence[str] | None, section: str) -> tuple[str, ...]:
    unknown = [name for name in names or () if name not in judge.attributes]
    if unknown:
        raise ConfigError(
            f"{section}.attributes: the judge does not know {unknown[0]!r}, only {', '.join(judge.attributes)}; "
            "add it to recognition.attributes"
        )
    return judge.attributes if names is None else tuple(names)


class _Clip:
    """A CLIP model from a directory or the hub, with its tokenizer once texts are compared."""

    def __init__(self, location: str, device: str, section: str) -> None:
        try:
            import transformers
        except ImportError as error:
            raise ModelError(
                f"{section}.clip: {location} needs the library transformers; pip install 'diffmech[pipelines]'"
            ) from error
        self.location, self.section, self.device = location, section, resolve_device(device)
        self._library: Any = transformers
        self.model: Any = self._read(transformers.CLIPModel).to(self.device).eval()
        self.side = int(self.model.config.vision_config.image_size)
        settings: Any = None
        try:
            settings = transformers.AutoImageProcessor.from_pretrained(location, trust_remote_code=False)
        except Exception:  # many folders have no image processor: the usual numbers hold
            settings = None
        self.mean = torch.tensor(getattr(settings, "image_mean", None) or CLIP_MEAN)[:, None, None]
        self.spread = torch.tensor(getattr(settings, "image_std", None) or CLIP_SPREAD)[:, None, None]

    def embedded(self, images: Tensor) -> np.ndarray:
        """Return the projected embedding of each image, of length 1, `(image, feature)`."""
        return self._embedded(images).cpu().numpy()

    def judging(self, pairs: Sequence[Sequence[str]]) -> Reader:
        """Return what gives a logit per pair of texts: how much more an image is like the first one."""
        tokenizer = self._read(self._library.AutoTokenizer)
        texts = [text for pair in pairs for text in pair]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
        with torch.no_grad():
            pooled = self.model.text_model(**tokens).pooler_output
            embedded = F.normalize(self.model.text_projection(pooled), dim=-1)
        directions = (embedded[0::2] - embedded[1::2]) * self.model.logit_scale.detach().exp()
        return lambda images: (self._embedded(images) @ directions.T).cpu().numpy()

    def _embedded(self, images: Tensor) -> Tensor:
        found = []
        for part in images.split(BATCH):
            coloured = part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part
            resized = F.interpolate(coloured, (self.side, self.side), mode="bicubic", antialias=True).clamp(-1, 1)
            pixels = ((resized + 1) / 2 - self.mean) / self.spread
            with torch.no_grad():
                pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
                found.append(F.normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(found)

    def _read(self, kind: Any) -> Any:
        try:
            return kind.from_pretrained(self.location, trust_remote_code=False)
        except Exception as error:  # transformers, safetensors and the hub each raise their own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{self.section}.clip: {self.location} cannot be read as a CLIP model ({reason}); give the directory "
                "or hub id of one"
            ) from error


def _inception(location: str, device: str, section: str) -> Reader:
    path, target = Path(location).expanduser(), resolve_device(device)
    try:
        network: Any = torch.jit.load(str(path), map_location=target).eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{section}.inception: {path} cannot be read as TorchScript ({reason})") from error

    names = [argument.name for argument in network.forward.schema.arguments]
    asked = {"return_features": True} if "return_features" in names else {}  # else such a network gives class scores

    def features(images: Tensor) -> np.ndarray:
        found = []
        for part in images.split(BATCH):
            pixels = ((part.expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            with torch.no_grad():
                seen = network(pixels.to(target), **asked)
            if not isinstance(seen, Tensor) or seen.dim() != 2:
                shape = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
                raise ModelError(f"{section}.inception: {path} returns {shape}; expected (image, feature)")
            found.append(seen.float().cpu())
        return torch.cat(found).numpy()

    return features
