"""What the report reads: the paths of a study's artifacts, and its tables, checked when they are opened.

Every number of the report comes from here. A missing optional table (training history, recognition) is None and the
page says that it is absent; a missing required one is an error.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import yaml

from diffmech.artifacts import open_store, read_json
from diffmech.attention.store import ExtraTokens, extra_tokens_of, heads_in_order
from diffmech.circuits.tables import CURVE, EDGES, HEADS, SUBSETS
from diffmech.errors import StoreError
from diffmech.heads.tables import reported
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.interventions.tables import DOSES, EFFECTS, PATCHING, WINDOWS
from diffmech.judging.tables import RECOGNITION
from diffmech.mechanisms.tables import ACCOUNT, DIVERGENCE
from diffmech.mechanisms.told import IMAGE
from diffmech.models.tables import HELDOUT, HISTORY
from diffmech.resampling.tables import RESAMPLING

STORES = ("comparison", "model", "gallery", "resampled", "references")
CIRCUIT_TABLES = {"heads": HEADS, "curve": CURVE, "subsets": SUBSETS, "edges": EDGES}
BESIDE_WEIGHTS = {"history": HISTORY, "recognition": RECOGNITION}


@dataclass(frozen=True)
class ReportInputs:
    """The paths of one study's artifacts; `datasets` and `attention` are by domain, in the study's order.

    `tables` are those of `diffmech.heads.tables.reported`, by name; `groups` those of domains that have any.
    """

    datasets: dict[str, str]
    attention: dict[str, list[str]]
    circuits: dict[str, str]
    tables: dict[str, str]
    comparison: str
    model: str
    gallery: str
    resampled: str
    references: str
    benchmarks: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


def inputs_of_job(
    files: Any, domains: Sequence[str], groups: dict[str, str] | None = None, *, benchmarks: str | None = None
) -> ReportInputs:
    """Return the paths of a rule's input, which names tables as they are declared and lists stores by domain.

    `benchmarks` is the folder in which the times of jobs are.
    """
    stores = (list(files.attention_first), list(files.attention_second))
    return ReportInputs(
        datasets=dict(zip(domains, map(str, files.datasets), strict=True)),
        attention=dict(zip(domains, stores, strict=True)),
        circuits=dict(zip(domains, map(str, files.circuits), strict=True)),
        tables={name: str(getattr(files, name)) for name in reported()},
        benchmarks=benchmarks,
        groups=groups or {},
        **{name: str(getattr(files, name)) for name in STORES},
    )


@dataclass(frozen=True)
class Circuit:
    """The circuit of one domain: its summary, and the tables of heads, curves by size, subsets and paths."""

    summary: dict[str, Any]
    heads: pd.DataFrame
    curve: pd.DataFrame
    subsets: pd.DataFrame
    edges: pd.DataFrame

    @property
    def chosen(self) -> bool:
        """Whether heads were chosen; the verdict on them is another matter."""
        return bool(self.summary["chosen"])

    @property
    def members(self) -> list[str]:
        """Its heads, those worth most first."""
        return list(self.summary["circuit"])


@dataclass(frozen=True)
class Tables:
    """The tables of one study; `domains` are in the study's order, `sites` in that in which they run.

    `heads` are layer by layer in that order. `frames` are those of `diffmech.heads.tables.reported`, by name, and
    attributes by that name too. `divergence` has the rows of the effect of the image alone; `telling` those of what it
    is told and of their interaction, none where nothing can be told.

    `extra_tokens` are those of the sites that have keys without a place on the image. `sampled_calls` names the
    attention calls that passes were seen to make at each timestep of sampling, none where no image was sampled with
    heads removed.
    """

    domains: tuple[str, ...]
    sites: tuple[str, ...]
    heads: tuple[str, ...]
    comparison: dict[str, Any]
    model: dict[str, Any]
    circuits: dict[str, Circuit]
    references: dict[str, Any]
    telling: pd.DataFrame
    extra_tokens: dict[str, ExtraTokens]
    sampled_calls: dict[int, frozenset[str]]
    history: pd.DataFrame | None
    recognition: pd.DataFrame | None
    frames: dict[str, pd.DataFrame]

    def __getattr__(self, name: str) -> pd.DataFrame:
        # Looked up in `__dict__`: a copy that is still being made has no frames.
        try:
            return cast(pd.DataFrame, self.__dict__["frames"][name])
        except KeyError:
            raise AttributeError(f"no table is called {name}") from None


def read_tables(inputs: ReportInputs) -> Tables:
    """Read all tables of a study. Raises StoreError naming the file and the column for a table that is not whole."""
    model, domains = read_json(inputs.model), tuple(inputs.datasets)
    frames = {name: table.read(inputs.tables[name]) for name, table in reported().items()}
    for name in (EFFECTS.name, HELDOUT.name):
        frames[name] = with_timesteps_as_text(frames[name])
    for table in (EFFECTS, WINDOWS, PATCHING, DOSES, ACCOUNT, RESAMPLING):
        frames[table.name] = in_order(frames[table.name], domains)
    of_effects = frames[DIVERGENCE.name]
    frames[DIVERGENCE.name] = of_effects[of_effects["effect"] == IMAGE]
    layers = heads_in_order(inputs.attention[domains[0]])
    return Tables(
        domains=domains,
        sites=tuple(layers),
        heads=tuple(head for heads in layers.values() for head in heads),
        comparison=read_json(inputs.comparison),
        model=model,
        circuits={domain: read_circuit(path) for domain, path in inputs.circuits.items()},
        references=read_references(inputs.references),
        telling=of_effects[of_effects["effect"] != IMAGE],
        extra_tokens=extra_tokens_of(inputs.attention[domains[0]]),
        sampled_calls=read_sampled_calls(inputs.resampled),
        history=beside_weights(inputs, model, "history"),
        recognition=beside_weights(inputs, model, "recognition"),
        frames=frames,
    )


def with_timesteps_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table some of whose rows are of all timesteps with the others as whole numbers, all of them text."""
    return table.assign(timestep=table["timestep"].astype(str).str.removesuffix(".0"))


def in_order(table: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Return the table with its domains in the order of the study, else as it was."""
    order = {domain: place for place, domain in enumerate(domains)}
    return table.sort_values("domain", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def read_circuit(path: str | Path) -> Circuit:
    """Read the circuit whose summary is `path`; its tables stand beside it."""
    tables = {name: table.read(Path(path).parent / f"{name}.csv") for name, table in CIRCUIT_TABLES.items()}
    tables["heads"] = with_timesteps_as_text(tables["heads"])
    return Circuit(read_json(path), **tables)


def read_sampled_calls(path: str | Path) -> dict[int, frozenset[str]]:
    """Read which attention calls passes made at each timestep of sampling, from the examples of resampled images."""
    calls = json.loads(open_store(path).attrs["calls"])
    return {int(timestep): frozenset(names) for timestep, names in calls.items()}


def read_references(path: str | Path) -> dict[str, Any]:
    """Read the published figures and the definitions, each with its source."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return dict(content)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise StoreError(f"{path}: the published figures cannot be read ({reason}); restore the file") from error


def weights_directory(inputs: ReportInputs, model: dict[str, Any]) -> Path:
    """Return the folder of the studied weights; a relative location counts from the folder of model.json."""
    return Path(inputs.model).parent / str(model["location"])


def beside_weights(inputs: ReportInputs, model: dict[str, Any], name: str) -> pd.DataFrame | None:
    """Return `<name>.csv` from beside the weights, or beside model.json, or None where it does not exist."""
    for folder in (weights_directory(inputs, model), Path(inputs.model).parent):
        path = folder / f"{name}.csv"
        if path.is_file():
            return BESIDE_WEIGHTS[name].read(path)
    return None


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table, with its columns as attributes."""
    return iter(frame.itertuples(index=False))


def effect_title(effects: pd.DataFrame) -> str:
    """Return what an effect in percent is: the change of the denoising loss, or the output shift."""
    shifted = len(effects) and effects["measure"].iloc[0] == OUTPUT_SHIFT
    return f"{OUTPUT_SHIFT}, %" if shifted else f"change of the {DENOISING_LOSS}, %"


def run_timesteps(effects: pd.DataFrame) -> list[float]:
    """Return the timesteps at which heads were replaced, ascending."""
    return sorted({float(timestep) for timestep in effects["timestep"] if timestep != "all"})


def largest(frame: pd.DataFrame, column: str) -> Any:
    """Return the row in which `column` is largest."""
    return frame.iloc[int(frame[column].to_numpy().argmax())]


def farthest_from_zero(frame: pd.DataFrame, column: str) -> Any:
    """Return the row in which `column` is largest in size, whatever its sign."""
    return frame.iloc[int(frame[column].abs().fillna(-1).to_numpy().argmax())]
