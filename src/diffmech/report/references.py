"""Published figures that a page shows beside measured ones, from a file of `resources/`."""

from pathlib import Path
from typing import Any

import yaml

from diffmech.errors import StoreError


def read_references(path: Path | str) -> list[dict[str, Any]]:
    """Return the published figures. Raises StoreError where the file holds none."""
    try:
        return list(yaml.safe_load(Path(path).read_text(encoding="utf-8"))["published"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: holds no published figures ({' '.join(str(error).split())}); restore it") from error
