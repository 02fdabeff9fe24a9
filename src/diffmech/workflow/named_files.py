"""Files that a study names and that are not there: told before anything runs, not by the job that reads them.

What a hub may have, and data, which may be on the way, are left to the jobs.
"""

from collections.abc import Iterator
from pathlib import Path

from diffmech.config.further import further_sections
from diffmech.config.judging import JudgesConfig
from diffmech.config.root import Config
from diffmech.errors import ConfigError
from diffmech.workflow.own_code import find_code


def check_named_files(config: Config, root: Path) -> None:
    """Raise ConfigError, a line for each, where files do not exist that the studied model or a detector names."""
    lines = [*_missing(config, root), *_missing_of_detectors(config, root)]
    if lines:
        raise ConfigError("\n".join(lines))


def _missing(config: Config, root: Path) -> Iterator[str]:
    model, where = config.model, f"models.{config.study.model}"
    looked = _looked(root)
    location = str(model.location) if model.source in ("diffusers", "pipeline") else ""
    if location.startswith((".", "/", "~")) and not any(path.is_dir() for path in _places(location, root)):
        yield f"{where}.location: {location!r}: no such directory (looked from {looked}); check the path"
    if model.source != "custom":
        return
    if find_code(str(model.implementation), root) is None:
        yield (
            f"{where}.implementation: {model.implementation!r}: there is no such file or module (looked from {looked});"
            " give path/to/file.py:Class"
        )
    if model.weights is not None and not any(path.is_file() for path in _places(model.weights, root)):
        yield (
            f"{where}.weights: {model.weights!r}: no such file (looked from {looked}); check the path, or give null "
            "for random weights"
        )
    if (schedule := model.schedule.config) is not None and not any(path.exists() for path in _places(schedule, root)):
        yield (
            f"{where}.schedule.config: {schedule!r}: no such file or directory (looked from {looked}); check the path, "
            "or describe the schedule by timesteps and beta_schedule"
        )


def _missing_of_detectors(config: Config, root: Path) -> Iterator[str]:
    sections: dict[str, JudgesConfig] = {"resampling": config.resampling}
    for name in further_sections():
        if judges := getattr(getattr(config, name), "judges", None):
            sections[f"{name}.judges"] = judges
    for where, judges in sections.items():
        if judges.detector is None:
            continue
        if find_code(judges.detector.function, root) is None:
            yield (
                f"{where}.detector.function: {judges.detector.function!r}: no file or module of this name (looked from "
                f"{_looked(root)}); give path/to/file.py:function"
            )
        for file in judges.detector.files:
            if not any(path.is_file() for path in _places(file, root)):
                yield f"{where}.detector.files: {file!r} is no file (looked from {_looked(root)}); check the path"


def _looked(root: Path) -> str:
    return " and ".join(dict.fromkeys([str(Path.cwd()), str(root.resolve())]))


def _places(name: str, root: Path) -> tuple[Path, Path]:
    return Path(name).expanduser(), root / name
