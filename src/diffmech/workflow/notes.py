"""What is worth a warning before anything runs: images in another form than those of the training. Ours."""

import json
from collections.abc import Iterator
from pathlib import Path

from diffmech.config.root import MATCHED_SOURCES, Config


def notes(config: Config, root: Path) -> Iterator[str]:
    """Yield a sentence on each doubt about how the images are prepared; `root` holds `resources/models`."""
    name, model, match = config.study.model, config.model, config.images.match
    given = None if match is None else match.canonical()
    trained = _images_of_training(config, root)
    if trained is not None:
        if trained.get("match") != given:
            yield (
                f"images.match is {_spoken(given)}, but models.{name} was trained on images matched to "
                f"{_spoken(trained.get('match'))}; give that, or do not wonder at a larger loss"
            )
    elif match is not None and model.source not in (*MATCHED_SOURCES, "pipeline"):
        yield (
            f"images.match shifts mean and contrast of the images to {_spoken(given)}, but models.{name} (source "
            f"{model.source}) was not trained here; give images.match: null, unless its training images were "
            "matched alike"
        )


def _images_of_training(config: Config, root: Path) -> dict[str, object] | None:
    """Return how the images of the training were prepared, where that lies beside the weights on this machine."""
    location = config.model.location
    if config.model.source not in ("bundled", "diffusers") or not location:
        return None
    bundled = [root / "resources" / "models" / location]
    own = [Path(location).expanduser(), root / location]
    for folder in bundled if config.model.source == "bundled" else own:
        try:
            record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        images = record.get("images") if isinstance(record, dict) else None
        return images if isinstance(images, dict) else None
    return None


def _spoken(match: object) -> str:
    return "null" if match is None else json.dumps(match)
