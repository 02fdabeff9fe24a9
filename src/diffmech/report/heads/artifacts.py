"""What the report reads: the paths of a study's artifacts, and its tables, checked when they are opened.

Every number of the report comes from here. A missing optional table (training history, recognition) is None and the
page says that it is absent; a missing required one is an error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from diffmech.artifacts import read_csv, read_json
from diffmech.errors import StoreError
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.mechanisms.told import IMAGE

TABLES = (
    *("entropy", "divergence", "factorial", "phases", "clusters", "mechanisms", "effects", "windows"),
    *("patching", "doses", "resampling", "account", "complexity", "seen", "seen_divergence"),
    "references",
)
STORES = ("comparison", "model", "heldout", "denoising", "gallery", "resampled")
CIRCUIT_TABLES = ("heads", "curve", "subsets", "edges")
STAGES = {"down": 0, "mid": 1, "up": 2}


@dataclass(frozen=True)
class ReportInputs:
    """The paths of one study's artifacts; `datasets` and `attention` are by domain, in the study's order."""

    datasets: dict[str, str]
    comparison: str
    model: str
    seen: str
    seen_divergence: str
    heldout: str
    denoising: str
    gallery: str
    attention: dict[str, list[str]]
    entropy: str
    divergence: str
    factorial: str
    phases: str
    clusters: str
    mechanisms: str
    effects: str
    windows: str
    patching: str
    doses: str
    circuits: dict[str, str]
    resampling: str
    resampled: str
    account: str
    complexity: str
    references: str
    benchmarks: str | None = None
    groups: dict[str, str] = field(default_factory=dict)  # tables of groups of those domains that have any


def inputs_of_job(files: Any, domains: Sequence[str], groups: dict[str, str] | None = None) -> ReportInputs:
    """Return the paths of a rule's input, which names tables as `ReportInputs` does and lists stores by domain."""
    named = {name: str(getattr(files, name)) for name in (*STORES, *TABLES)}
    stores = (list(files.attention_first), list(files.attention_second))
    return ReportInputs(
        datasets=dict(zip(domains, map(str, files.datasets), strict=True)),
        attention=dict(zip(domains, stores, strict=True)),
        circuits=dict(zip(domains, map(str, files.circuits), strict=True)),
        benchmarks="results/benchmarks",
        groups=groups or {},
        **named,
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
    """The tables of one study; `domains` are in the study's order, `heads` and `sites` in the order of the network.

    `divergence` has the rows of the effect of the image, `telling` those of what it is told and of their interaction,
    none where nothing can be told.
    """

    domains: tuple[str, ...]
    sites: tuple[str, ...]
    heads: tuple[str, ...]
    comparison: dict[str, Any]
    model: dict[str, Any]
    seen: pd.DataFrame
    seen_divergence: pd.DataFrame
    heldout: pd.DataFrame
    denoising: pd.DataFrame
    entropy: pd.DataFrame
    divergence: pd.DataFrame
    telling: pd.DataFrame
    factorial: pd.DataFrame
    phases: pd.DataFrame
    clusters: pd.DataFrame
    mechanisms: pd.DataFrame
    effects: pd.DataFrame
    windows: pd.DataFrame
    patching: pd.DataFrame
    doses: pd.DataFrame
    circuits: dict[str, Circuit]
    resampling: pd.DataFrame
    account: pd.DataFrame
    complexity: pd.DataFrame
    references: dict[str, Any]
    history: pd.DataFrame | None
    recognition: pd.DataFrame | None


REQUIRED = {
    "seen": "domain sample seen",
    "seen_divergence": ("domain timestep kind divergence low high floor floor_high p p_holm p_least n_seen n_unseen"),
    "heldout": "domain split timestep loss low high relative relative_low relative_high n",
    "denoising": "domain timestep loss zero linear skill skill_low skill_high slope slope_low slope_high n",
    "entropy": (
        "domain head site kind timestep entropy low high h_max normalised effective_keys untrained_entropy "
        "untrained_low untrained_high n"
    ),
    "divergence": (
        "effect condition timestep kind divergence low high share floor floor_high p p_holm p_least jensen_shannon "
        "untrained_divergence_max untrained_n p_untrained smallest n_first n_second significant"
    ),
    "factorial": (
        "timestep head site kind effect estimate low high p p_holm p_untrained untrained_max n_first n_second "
        "significant"
    ),
    "phases": "timestep phase stability",
    "clusters": "kind k chosen silhouette bic ari_sample_bootstrap ari_seeds",
    "mechanisms": (
        "head site kind phase phase_first phase_last mechanism label reason probe enrichment p_rolled_holm p_untrained "
        "smallest_excess domain_first domain_second label_first probe_first enrichment_first p_rolled_holm_first "
        "p_content_holm_first p_untrained_first label_second probe_second enrichment_second p_rolled_holm_second "
        "p_content_holm_second p_untrained_second confirmed_first confirmed_second confirmed "
        "enrichment_of_head stability found_on_first found_on_second tested_on_first tested_on_second"
    ),
    "effects": (
        "domain group target method timestep effect_percent low high p_zero p_zero_holm p_zero_max smallest_effect "
        "shift shift_low shift_high control_mean control_low control_high control_sd control_percentile p_control "
        "p_heads_adjusted p_control_adjusted smallest_effect_control control_pool control_overlap control_ratio "
        "control_ratio_low control_ratio_high controls controls_fair verdict off_distribution heads n measure "
        "effect_mean effect_mean_low effect_mean_high weight"
    ),
    "resampling": (
        "domain group target window measure clean effect low high p_zero p_zero_holm control_mean control_low "
        "control_high p_control p_control_adjusted control_ratio controls controls_fair flipped heads n"
    ),
    "account": (
        "mechanism label domain heads verdict effect_percent low high p_zero_max smallest_effect control_mean "
        "control_low control_high p_control_adjusted smallest_effect_control controls_fair window window_effect "
        "window_low window_high window_verdict attributes attributes_beyond attributes_flipped attribute "
        "attribute_measure attribute_change attribute_low attribute_high attribute_p_holm attribute_flipped "
        "attribute_control_low attribute_control_high attribute_controls attribute_verdict"
    ),
    "windows": (
        "domain group target method window window_first window_last timesteps effect_percent low high p_zero_max "
        "significant control_mean control_percentile p_control_adjusted controls_fair verdict heads n measure"
    ),
    "patching": (
        "domain source group target direction dose window window_first window_last effect low high p_zero_max "
        "significant smallest control_percentile p_control_adjusted off difference n"
    ),
    "doses": (
        "domain source group target direction slope departure departure_low departure_high p_linear_max monotone n"
    ),
    "circuit_heads": (
        "head site kind rank effect in_circuit timestep drop low high p_needed needed minimality minimality_low "
        "minimality_high without"
    ),
    "circuit_curve": "ranking size faithfulness low high sets",
    "circuit_subsets": "how size removed circuit_without model_without incompleteness low high",
    "circuit_edges": "sender receiver path effect_percent low high p p_holm significant n",
    "complexity": (
        "variant ratio low high p p_holm p_least n_first n_second untrained_low untrained_high untrained_n p_untrained "
        "p_untrained_max smallest_ratio significant"
    ),
    "history": "step loss learning_rate seconds",
    "recognition": "attribute heldout_accuracy recognised_share low high n",
}
BOOLEAN = {
    *("significant", "confirmed", "confirmed_first", "confirmed_second", "chosen", "monotone", "in_circuit", "needed"),
    *("circuit", "controls_fair", "seen"),
}


def read_tables(inputs: ReportInputs) -> Tables:
    """Read all tables of a study. Raises StoreError naming the file and the column for a table that is not whole."""
    model = read_json(inputs.model)
    entropy = read_table(inputs.entropy, "entropy")
    effects, heldout = read_table(inputs.effects, "effects"), read_table(inputs.heldout, "heldout")
    for table in (effects, heldout):
        table["timestep"] = table["timestep"].astype(str).str.removesuffix(".0")
    sites = sorted(entropy["site"].unique(), key=site_order)
    by_domain = {name: read_table(getattr(inputs, name), name) for name in ("windows", "patching", "doses", "account")}
    by_domain = {name: in_order(table, tuple(inputs.datasets)) for name, table in by_domain.items()}
    of_effects = read_table(inputs.divergence, "divergence")
    return Tables(
        domains=tuple(inputs.datasets),
        sites=tuple(sites),
        heads=tuple(sorted(entropy["head"].unique(), key=lambda head: (site_order(head.rpartition(".")[0]), head))),
        comparison=read_json(inputs.comparison),
        model=model,
        seen=read_table(inputs.seen, "seen"),
        seen_divergence=read_table(inputs.seen_divergence, "seen_divergence"),
        heldout=heldout,
        denoising=read_table(inputs.denoising, "denoising"),
        entropy=entropy,
        divergence=of_effects[of_effects["effect"] == IMAGE],
        telling=of_effects[of_effects["effect"] != IMAGE],
        factorial=read_table(inputs.factorial, "factorial"),
        phases=read_table(inputs.phases, "phases"),
        clusters=read_table(inputs.clusters, "clusters"),
        mechanisms=read_table(inputs.mechanisms, "mechanisms"),
        effects=in_order(effects, tuple(inputs.datasets)),
        circuits={domain: read_circuit(path) for domain, path in inputs.circuits.items()},
        resampling=in_order(read_table(inputs.resampling, "resampling"), tuple(inputs.datasets)),
        complexity=read_table(inputs.complexity, "complexity"),
        references=read_references(inputs.references),
        history=beside_weights(inputs, model, "history"),
        recognition=beside_weights(inputs, model, "recognition"),
        **by_domain,
    )


def in_order(table: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Return the table with its domains in the order of the study, else as it was."""
    order = {domain: place for place, domain in enumerate(domains)}
    return table.sort_values("domain", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def read_circuit(path: str | Path) -> Circuit:
    """Read the circuit whose summary is `path`; its tables stand beside it."""
    tables = {name: read_table(Path(path).parent / f"{name}.csv", f"circuit_{name}") for name in CIRCUIT_TABLES}
    tables["heads"]["timestep"] = tables["heads"]["timestep"].astype(str).str.removesuffix(".0")
    return Circuit(read_json(path), **tables)


def read_table(path: str | Path, name: str) -> pd.DataFrame:
    """Read the table `name`; StoreError if the file or one of its columns is missing."""
    frame = read_csv(path, REQUIRED[name].split())
    for column in BOOLEAN & set(frame.columns):
        frame[column] = frame[column].astype(str).str.lower().isin(["true", "1", "1.0"])
    return frame


def read_references(path: str | Path) -> dict[str, Any]:
    """Read the published figures and the definitions, each with its source."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: the published figures cannot be read ({' '.join(str(error).split())})") from error
    return dict(content)


def weights_directory(inputs: ReportInputs, model: dict[str, Any]) -> Path:
    """Return the folder of the studied weights; a relative location counts from the folder of model.json."""
    return Path(inputs.model).parent / str(model["location"])


def beside_weights(inputs: ReportInputs, model: dict[str, Any], name: str) -> pd.DataFrame | None:
    """Return `<name>.csv` from beside the weights, or beside model.json, or None where it does not exist."""
    for folder in (weights_directory(inputs, model), Path(inputs.model).parent):
        path = folder / f"{name}.csv"
        if path.is_file():
            return read_table(path, name)
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


def site_order(site: str) -> tuple[int, str, int]:
    """Sort sites as the data flow: down, middle, up, and self before cross; any other architecture by name."""
    block, _, kind = site.rpartition(".")
    stage = site.split(".")[0].rstrip("0123456789")
    return STAGES.get(stage, 3), block, ("self", "cross").index(kind) if kind in ("self", "cross") else 2
