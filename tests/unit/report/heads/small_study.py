"""A small, complete study made of invented artifacts with known values, for tests of the report.

`build_study(folder)` writes every artifact the report reads. With `effect=False` nothing in it beats any null.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from small_circuits import write_circuits

from diffmech.artifacts import building_store, write_json, write_store
from diffmech.attention.layout import Kept, SiteLayout, create_attention_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import AnyDataset, ImagesConfig, LfwSubset, SyntheticFaces
from diffmech.config.load import validate
from diffmech.config.root import Config
from diffmech.data.comparison import compare_domains
from diffmech.data.store import prepare_dataset
from diffmech.declared import measured_tables
from diffmech.heads.tables import reported
from diffmech.interventions.decisions import verdict
from diffmech.judging.tables import RECOGNITION
from diffmech.mechanisms.account import account
from diffmech.models.tables import DENOISING, HELDOUT, HISTORY
from diffmech.report.heads.artifacts import ReportInputs
from diffmech.tables import Table

ROOT = Path(__file__).parents[4]
DOMAINS = ("real", "synthetic")
TIMESTEPS = [20, 220, 420, 620, 820]
STAGES = {"down1.0": 16, "up1.0": 16, "up1.1": 16}
TOKENS = ("domain", "glasses", "hat", "beard", "smile")
HEADS = 8
GRID = (16, 16)
H_MAX = {"self": float(np.log(256)), "cross": float(np.log(len(TOKENS)))}
PHASES = {1: (20, 420), 2: (620, 820)}
LABELS = ("edge", "texture", "semantic", "local", "positional", "unassigned")


def sites() -> list[tuple[str, str]]:
    """Return (site, kind) of every attention site."""
    return [(f"{stage}.{kind}", kind) for stage in STAGES for kind in ("self", "cross")]


def study_config(source: str = "bundled") -> Config:
    """Return the settings of the small study."""
    return validate(
        {
            "study": {"name": "small", "model": "faces", "domains": {"real": "lfw", "synthetic": "drawn"}},
            "datasets": {"lfw": {"kind": "lfw_subset", "count": 24}, "drawn": {"kind": "synthetic_faces", "count": 24}},
            "models": {"faces": {"source": source, "location": "faces"}},
            "capture": {"timesteps": TIMESTEPS, "samples": 24, "keep_maps": 2},
            "untrained": {"seeds": 19, "samples": 8},
            "ablation": {"timesteps": TIMESTEPS, "samples": 8, "reference_samples": 2},
        }
    )


def build_study(
    folder: Path,
    *,
    effect: bool = True,
    optional: bool = True,
    images: ImagesConfig | None = None,
    sources: Sequence[AnyDataset] | None = None,
) -> ReportInputs:
    """Write all artifacts under `folder` and return their paths; `sources` are the data sets of both domains."""
    generator = np.random.default_rng(0)
    datasets = {domain: str(folder / f"datasets/{domain}.zarr.zip") for domain in DOMAINS}
    images, runtime = images or ImagesConfig(), RuntimeConfig(progress=False)
    configs = sources or (
        LfwSubset(kind="lfw_subset", count=24),
        SyntheticFaces(kind="synthetic_faces", count=24, zoom=1.2),
    )
    for domain, config in zip(DOMAINS, configs, strict=True):
        prepare_dataset(config, images, Path(datasets[domain]), name=domain, runtime=runtime)
    comparison = folder / "datasets/comparison.json"
    compare_domains({domain: Path(path) for domain, path in datasets.items()}, comparison)
    model = folder / "models/model.json"
    write_model(folder, effect=effect, optional=optional, generator=generator)
    attention = {domain: [write_attention(folder, domain, generator)] for domain in DOMAINS}
    tables = {
        "seen": seen_table(effect),
        "seen_divergence": seen_divergence_table(effect),
        "entropy": entropy_table(generator),
        "divergence": divergence_table(effect),
        "factorial": pd.DataFrame(),
        "phases": phases_table(),
        "clusters": clusters_table(generator),
        "mechanisms": mechanisms_table(effect, generator),
        "effects": effects_table(effect, generator),
        "windows": windows_table(effect),
        "patching": patching_table(effect),
        "doses": doses_table(effect),
        "resampling": resampling_table(effect),
        "complexity": complexity_table(effect),
    }
    tables["factorial"] = factorial_table(tables["entropy"], effect)
    told = (tables[name] for name in ("mechanisms", "effects", "windows", "resampling"))
    tables["account"] = account(*told, method="mean", alpha=0.05)
    paths = {name: str(folder / f"{name}.csv") for name in tables}
    paths |= {name: str(folder / f"models/{name}.csv") for name in ("heldout", "denoising")}
    for table in measured_tables():
        paths[table.name] = str(folder / f"{table.name}.csv")
        table.write(paths[table.name], measured(table, tables["entropy"]))
    for name, frame in tables.items():
        write_table(reported()[name], paths[name], frame)
    write_resampled(folder / "resampled.zarr.zip", list(tables["mechanisms"]["mechanism"].unique()))
    circuits = write_circuits(folder / "circuits", DOMAINS, found=effect)
    write_benchmarks(folder / "benchmarks")
    return ReportInputs(
        datasets=datasets,
        comparison=str(comparison),
        model=str(model),
        gallery=str(folder / "models/gallery.zarr.zip"),
        resampled=str(folder / "resampled.zarr.zip"),
        attention=attention,
        circuits=circuits,
        references=str(ROOT / "resources" / "references.yaml"),
        benchmarks=str(folder / "benchmarks"),
        tables=paths,
    )


def measured(declared: Table, entropy: pd.DataFrame) -> pd.DataFrame:
    """Return the table of a further measure, of which nothing is known but its columns: a row per row of entropy."""
    values = {"text": "any", "whole": 3, "number": np.linspace(0.1, 0.9, len(entropy)), "flag": True}
    unknown = {name: values[column.values] for name, column in declared.columns.items() if name not in entropy}
    return declared.in_order(entropy.assign(**unknown))


def write_table(declared: Table, path: Path | str, table: pd.DataFrame) -> None:
    """Write a table of which only the columns that a test needs are made; all others are empty."""
    more = [] if not declared.more else [name for name in table if name not in declared.columns]
    odd = [name for name in table if name not in declared.columns and not declared.more]
    assert not odd, f"{declared.name} has no columns {odd}"
    declared.write(path, table.reindex(columns=[*declared.columns, *more]))


def changed(what: Any, **parts: Any) -> Any:
    """Return `Tables` or `ReportInputs` with some tables, or other parts, replaced."""
    held = "frames" if hasattr(what, "frames") else "tables"
    of_tables = {name: part for name, part in parts.items() if name in getattr(what, held)}
    rest = {name: part for name, part in parts.items() if name not in of_tables}
    return replace(what, **rest, **{held: {**getattr(what, held), **of_tables}})


def write_model(folder: Path, *, effect: bool, optional: bool, generator: np.random.Generator) -> None:
    """Write the pointer, held-out loss, gallery and the optional tables of the denoiser."""
    write_json(
        folder / "models/model.json",
        {
            "kind": "unet_condition_tokens",
            "location": "weights",
            "sha256": "0123456789abcdef" * 4,
            "parameters": 1_412_345,
            "attributes": list(TOKENS[1:]),
            "domains": list(DOMAINS),
            "sample_shape": [1, 32, 32],
            "timesteps": 1000,
            "prediction_type": "epsilon",
            "source": "bundled" if effect else "untrained",
            "provenance": {"versions": {"torch": "2.6.0"}},
        },
    )
    write_table(HELDOUT, folder / "models/heldout.csv", heldout_table())
    write_table(DENOISING, folder / "models/denoising.csv", denoising_table(effect))
    labels = [*DOMAINS, *TOKENS[1:]]
    noise = generator.uniform(0, 255, (len(labels), 8, 1, 32, 32)).astype(np.uint8)
    gallery = xr.Dataset({"image": (("row", "column", "channel", "y", "x"), noise)}, coords={"row": labels})
    write_store(folder / "models/gallery.zarr.zip", gallery)
    if optional:
        steps = np.arange(0, 3000, 25)
        history = pd.DataFrame(
            {"step": steps, "loss": 0.03 + np.exp(-steps / 200.0), "learning_rate": 1e-3, "seconds": steps / 4}
        )
        HISTORY.write(folder / "models/weights/history.csv", history)
        shares = pd.DataFrame(
            {
                "attribute": TOKENS[1:],
                "heldout_accuracy": 0.97,
                "recognised_share": [0.9, 0.8, 0.7, 0.95],
                "low": [0.84, 0.72, 0.6, 0.9],
                "high": [0.95, 0.87, 0.79, 0.98],
                "n": 64,
            }
        )
        RECOGNITION.write(folder / "models/weights/recognition.csv", shares)


def seen_table(effect: bool) -> pd.DataFrame:
    """Return that 7 of 8 images of the first domain were trained on and none of the second; random weights saw none."""
    rows = [(domain, sample, domain == DOMAINS[0] and sample % 5 != 4) for domain in DOMAINS for sample in range(8)]
    return pd.DataFrame(rows if effect else [], columns=["domain", "sample", "seen"])


def seen_divergence_table(effect: bool) -> pd.DataFrame:
    """Return divergences of 0.01 to 0.03 nats of seen and unseen images of the first domain, none beyond chance."""
    rows = [
        (DOMAINS[0], timestep, kind, 0.01 + 0.005 * step, 0.002, 0.05, 0.009, 0.02, 0.2, 0.9, 0.005, 80, 20)
        for step, timestep in enumerate(TIMESTEPS)
        for kind in ("self", "cross")
    ]
    columns = "domain timestep kind divergence low high floor floor_high p p_holm p_least n_seen n_unseen"
    return pd.DataFrame(rows if effect else [], columns=columns.split())


def heldout_table() -> pd.DataFrame:
    """Return losses that are 25 % larger (10 to 40) on unseen images."""
    rows = []
    for domain, scale in zip(DOMAINS, (1.2, 1.0), strict=True):
        for split, factor in (("train", 1.0), ("heldout", 1.25)):
            ratio = (1.25, 1.1, 1.4) if split == "heldout" else (np.nan,) * 3
            for timestep in [*TIMESTEPS, "all"]:
                loss = scale * factor * (0.1 if timestep == "all" else 0.4 * np.exp(-timestep / 150) + 0.01)
                rows.append((domain, split, str(timestep), loss, 0.9 * loss, 1.1 * loss, *ratio, 8))
    columns = "domain split timestep loss low high relative relative_low relative_high n"
    return pd.DataFrame(rows, columns=columns.split())


def denoising_table(effect: bool) -> pd.DataFrame:
    """Return skills of 0.8 falling to 0.4 with the noise, or, of random weights, losses twice those of the baseline."""
    rows = []
    for domain in DOMAINS:
        for step, timestep in enumerate(TIMESTEPS):
            linear, skill = 0.9 - 0.2 * step, 0.8 - 0.1 * step if effect else -1.0
            slope = 1.0 if effect else 0.1
            ends = (skill, skill - 0.05, skill + 0.05, slope, slope - 0.01, slope + 0.01)
            rows.append((domain, timestep, (1 - skill) * linear, 1.0, linear, *ends, 8))
    columns = "domain timestep loss zero linear skill skill_low skill_high slope slope_low slope_high n"
    return pd.DataFrame(rows, columns=columns.split())


def write_attention(folder: Path, domain: str, generator: np.random.Generator) -> str:
    """Write an attention store of eight samples, two of them with maps."""
    path = folder / f"attention/{domain}.zarr.zip"
    samples = list(range(8))
    layouts = [
        SiteLayout(
            name=site,
            kind=kind,
            heads=tuple(f"{site}.h{head:02d}" for head in range(HEADS)),
            queries=256,
            keys=256 if kind == "self" else len(TOKENS),
            channels=8,
            grid=GRID,
            tokens=() if kind == "self" else TOKENS,
        )
        for site, kind in sites()
    ]
    axes = {"sample": samples, "timestep": TIMESTEPS}
    y, x = np.mgrid[0:16, 0:16] / 15
    blob = np.exp(-((y - 0.4) ** 2 + (x - 0.35) ** 2) / 0.03) + np.exp(-((y - 0.4) ** 2 + (x - 0.65) ** 2) / 0.03)
    received = (blob / blob.mean()).ravel()
    with building_store(path) as directory:
        arrays = create_attention_store(
            directory,
            layouts,
            axes=axes,
            chunks={"sample": 8, "timestep": 1},
            kept={(layout.name, "maps"): Kept(samples[:2], TIMESTEPS) for layout in layouts},
            attrs={"domain": domain, "dataset": domain, "model_sha256": "0", "condition": "full", "seed": 0},
        )
        for layout in layouts:
            shape = (8, len(TIMESTEPS), HEADS, layout.keys)
            base = received if layout.kind == "self" else np.array([1.6, 0.6, 1.4, 0.5, 0.9])
            arrays[layout.name, "received"][:] = base * generator.uniform(0.8, 1.2, shape)
            kept = (2, len(TIMESTEPS), HEADS, 256, layout.keys)
            maps = base * generator.uniform(0.5, 1.5, kept)
            arrays[layout.name, "maps"][:] = maps / maps.sum(-1, keepdims=True)
    return str(path)


def entropy_table(generator: np.random.Generator) -> pd.DataFrame:
    """Return entropies: `real` 0.05 nats above `synthetic`, untrained copies close to uniform."""
    rows = []
    for domain in DOMAINS:
        for site, kind in sites():
            for head in range(HEADS):
                for timestep in TIMESTEPS:
                    most = H_MAX[kind]
                    value = most * (0.72 + 0.03 * head - 0.00015 * timestep) + (0.05 if domain == DOMAINS[0] else 0)
                    value = min(value, most)
                    untrained = 0.985 * most
                    rows.append(
                        (
                            domain,
                            f"{site}.h{head:02d}",
                            site,
                            kind,
                            timestep,
                            value,
                            value - 0.02,
                            value + 0.02,
                            most,
                            value / most,
                            np.exp(value),
                            untrained,
                            untrained - 0.01,
                            untrained + 0.01,
                            8,
                        )
                    )
    columns = "domain head site kind timestep entropy low high h_max normalised effective_keys untrained_entropy"
    return pd.DataFrame(rows, columns=[*columns.split(), "untrained_low", "untrained_high", "n"])


def divergence_table(effect: bool) -> pd.DataFrame:
    """Return divergences of 0.02 to 0.09 nats, significant from t = 220, or none above its floor."""
    rows = []
    for step, timestep in enumerate(TIMESTEPS):
        for kind, scale in (("self", 1.0), ("cross", 0.5)):
            value = scale * (0.02 + 0.0175 * step) if effect else 0.011
            significant = effect and step > 0
            p = 0.0005 if significant else 0.4
            rows.append(
                (
                    timestep,
                    kind,
                    value,
                    0.85 * value,
                    1.15 * value,
                    0.012,
                    0.017,
                    p,
                    min(1, 10 * p),
                    0.005,
                    value * 2,
                    0.02,
                    8,
                    0.05 if significant else 0.6,
                    0.025,
                    32,
                    32,
                    significant,
                )
            )
    columns = (
        "timestep kind divergence low high floor floor_high p p_holm p_least jensen_shannon untrained_divergence_max"
        " untrained_n p_untrained smallest n_first n_second significant"
    )
    image = pd.DataFrame(rows, columns=columns.split()).assign(effect="image", condition="nothing")
    image["share"] = image["divergence"] / image["kind"].map({"self": np.log(256), "cross": np.log(3)})
    told = image[image["kind"] == "cross"].assign(effect="told", jensen_shannon=np.nan)
    numbers, sizes = ["divergence", "low", "high", "share"], {"told": 2, "interaction": 0.5}
    return pd.concat([image, *(told.assign(effect=name, **(told[numbers] * size)) for name, size in sizes.items())])


def factorial_table(entropy: pd.DataFrame, effect: bool) -> pd.DataFrame:
    """Return three effects and their sum for every head and timestep."""
    cells = entropy[["timestep", "head", "site", "kind"]].drop_duplicates()
    sizes = {"image": 0.02, "told": 0.04, "interaction": 0.01, "raw": 0.07}
    rows = [
        cells.assign(effect=name, estimate=size, low=0.8 * size, high=1.2 * size, p_holm=0.01 if effect else 0.9)
        for name, size in sizes.items()
    ]
    table = pd.concat(rows, ignore_index=True)
    n = {"n_first": 32, "n_second": 32}
    return table.assign(
        p=0.0005, p_untrained=0.05, untrained_max=0.005, significant=effect & (table["effect"] != "raw"), **n
    )


def phases_table() -> pd.DataFrame:
    """Return two phases."""
    rows = [(t, phase, 0.9) for phase, (first, last) in PHASES.items() for t in TIMESTEPS if first <= t <= last]
    return pd.DataFrame(rows, columns=["timestep", "phase", "stability"])


def clusters_table(generator: np.random.Generator) -> pd.DataFrame:
    """Return cluster quality for 2 to 12 clusters."""
    rows = [
        (kind, k, k == best, 0.5 - 0.02 * abs(k - best), 4000 + 80 * abs(k - best), 0.8 - 0.03 * k, 0.9 - 0.02 * k)
        for kind, best in (("self", 6), ("cross", 4))
        for k in range(2, 13)
    ]
    return pd.DataFrame(rows, columns=["kind", "k", "chosen", "silhouette", "bic", "ari_sample_bootstrap", "ari_seeds"])


def mechanisms_table(effect: bool, generator: np.random.Generator) -> pd.DataFrame:
    """Return six self and two cross mechanisms; with an effect all but two carry a label in both domains.

    The unassigned of cross-attention is semantic on synthetic images. The last head of a label does not confirm it.
    """
    rows = []
    for site, kind in sites():
        for head in range(HEADS):
            for phase, (first, last) in PHASES.items():
                number = head % 6 if kind == "self" else head % 2
                label = LABELS[number] if kind == "self" else ("semantic", "unassigned")[number]
                label = label if effect else "unassigned"
                named = label != "unassigned"
                alone = effect and kind == "cross" and not named
                probe, enrichment = (
                    "eyes" if label == "semantic" or alone else "edges",
                    1.1 + 0.2 * (named + 0.1 * head),
                )
                confirmed = head != HEADS - 1
                reason = f"the two domains share no name: unassigned on {DOMAINS[0]}, semantic (eyes) on {DOMAINS[1]}"
                rows.append(
                    {
                        "head": f"{site}.h{head:02d}",
                        "site": site,
                        "kind": kind,
                        "phase": phase,
                        "phase_first": first,
                        "phase_last": last,
                        "mechanism": f"{kind}-{number + 1}",
                        "label": label,
                        "reason": np.nan if named else reason if alone else "not shown to exceed untrained copies",
                        "probe": probe,
                        "enrichment": enrichment,
                        "p_rolled_holm": 0.004 if named else 0.7,
                        "p_untrained": 0.05 if named else 0.6,
                        "smallest_excess": 0.02 if probe == "edges" else 0.14,
                        "domain_first": DOMAINS[0],
                        "domain_second": DOMAINS[1],
                        "label_first": label,
                        "probe_first": probe,
                        "enrichment_first": enrichment,
                        "p_rolled_holm_first": 0.003 if named else 0.7,
                        "p_content_holm_first": 0.002 if named else 0.8,
                        "p_untrained_first": 0.05 if named else 0.6,
                        "label_second": "semantic" if alone else label,
                        "probe_second": probe,
                        "enrichment_second": enrichment + 0.3,
                        "p_rolled_holm_second": 0.004 if named or alone else 0.5,
                        "p_content_holm_second": 0.001 if named or alone else 0.4,
                        "p_untrained_second": 0.05 if named or alone else 0.55,
                        "confirmed_first": named and confirmed,
                        "confirmed_second": (named or alone) and confirmed,
                        "confirmed": named and confirmed,
                        "enrichment_of_head": 1.1 + 0.05 * head,
                        "stability": 0.75,
                        "found_on_first": 4,
                        "found_on_second": 5,
                        "tested_on_first": 20,
                        "tested_on_second": 19,
                    }
                )
    return pd.DataFrame(rows).sort_values(["head", "phase"])


def effects_table(effect: bool, generator: np.random.Generator) -> pd.DataFrame:
    """Return effects of mechanisms, layers and heads; self-1 costs 12 % where its controls cost 3 %."""
    targets = {
        "mechanisms": [f"self-{k}" for k in range(1, 7)] + ["cross-1", "cross-2"],
        "layers": [site for site, _ in sites()],
        "heads": [f"{site}.h{head:02d}" for site, _ in sites() for head in range(HEADS)],
    }
    size = {"mechanisms": 3.0, "layers": 9.0, "heads": 0.4}
    per_timestep = (np.nan, np.nan, np.nan, 100 / len(TIMESTEPS))
    rows = []
    for domain in DOMAINS:
        for group, names in targets.items():
            for index, target in enumerate(names):
                for rank, method in enumerate(("mean", "zero", "resample", "uniform")):
                    for timestep in ["all", *TIMESTEPS]:
                        value = size[group] * (1 + 0.3 * np.sin(index)) * (1 + 0.25 * rank)
                        if timestep != "all":
                            value *= 1.6 - int(timestep) / 900
                        strong = effect and group == "mechanisms" and target == "self-1"
                        value = 12.0 * (1 + 0.1 * rank) if strong and timestep == "all" else value
                        controlled = rank == 0 and timestep == "all"
                        level = size[group]
                        control = (
                            level,
                            0.7 * level,
                            1.35 * level,
                            1.0 if strong else 0.6,
                            0.01,
                            0.02 if strong else 0.9,
                        )
                        p = 0.001 if effect and (index % 3 == 0) else 0.3
                        rows.append(
                            (domain, group, target, method, str(timestep), value, 0.8 * value, 1.2 * value, p, p)
                            + (value / 100, value / 120, value / 80)
                            + (control if controlled else (np.nan,) * 6)
                            + (0.4 + 0.2 * rank, {"mechanisms": 6, "layers": 8, "heads": 1}[group], 8, "denoising loss")
                            + ((1.1 * value, 0.8 * value, 1.4 * value, 100.0) if timestep == "all" else per_timestep)
                        )
    columns = (
        "domain group target method timestep effect_percent low high p_zero p_zero_holm shift shift_low shift_high "
        "control_mean control_low control_high control_percentile p_control p_control_adjusted off_distribution "
        "heads n measure effect_mean effect_mean_low effect_mean_high weight"
    )
    return with_controls(pd.DataFrame(rows, columns=columns.split()))


def with_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Return effects with the balance of their controls, what could have been seen, and their verdicts."""
    mechanism = table["group"] == "mechanisms"
    controlled = mechanism & table["control_mean"].notna()
    if "p_zero_max" not in table:
        table["p_zero_max"] = table["p_zero_holm"]
    table.loc[~mechanism, ["p_control", "p_control_adjusted"]] = np.nan
    spread = 0.2 * table["control_mean"].abs()
    table = table.assign(
        smallest_effect=1.5 * (table["high"] - table["effect_percent"]),
        control_sd=spread,
        p_heads_adjusted=table["p_control_adjusted"],
        smallest_effect_control=(table["control_mean"] + 4.2 * spread).where(controlled),
        control_pool=np.where(mechanism, "kind", ""),
        control_overlap=np.where(mechanism, 0.0, np.nan),
        control_ratio=np.where(mechanism, 1.01, np.nan),
        control_ratio_low=np.where(mechanism, 0.93, np.nan),
        control_ratio_high=np.where(mechanism, 1.12, np.nan),
        controls=np.where(mechanism, 20.0, np.nan),
        controls_fair=mechanism,
    )
    verdicts = [
        verdict(
            row.effect_percent,
            row.p_zero_max,
            row.p_control_adjusted,
            fair=True if compared else None,
            least_zero=2.0 ** (1 - row.n),
            within_reach=True,
            alpha=0.05,
        )
        for row, compared in zip(table.itertuples(), controlled, strict=True)
    ]
    return table.assign(verdict=verdicts)


def windows_table(effect: bool) -> pd.DataFrame:
    """Return effects of heads and mechanisms in both phases; self-1 costs 12 % late, where its controls cost 3 %."""
    heads = [f"{site}.h{head:02d}" for site, _ in sites() for head in range(HEADS)]
    rows = []
    for domain in DOMAINS:
        for group, names in (("heads", heads), ("mechanisms", ["self-1", "self-2"])):
            for index, target in enumerate(names):
                for phase, (first, last) in PHASES.items():
                    strong = effect and phase == 2 and index == 0
                    value = 12.0 if strong else 0.4 * np.sin(index)
                    p = 0.001 if strong else 0.6
                    control = (3.0, 100.0 if strong else 50.0, 0.02 if strong else 0.9)
                    effects = (2, value, value - 1, value + 1, p, strong)
                    key = (domain, group, target, "mean", f"{first}-{last}", first, last)
                    rows.append((*key, *effects, *control, 1, 8, "denoising loss"))
    columns = (
        "domain group target method window window_first window_last timesteps effect_percent low high p_zero_max "
        "significant control_mean control_percentile p_control_adjusted heads n measure"
    )
    table = pd.DataFrame(rows, columns=columns.split())
    ends = {"control_low": 0.7 * table["control_mean"], "control_high": 1.35 * table["control_mean"]}
    return with_controls(table.assign(p_control=table["p_control_adjusted"], **ends))


def patching_table(effect: bool) -> pd.DataFrame:
    """Return shares moved by heads; with an effect the first cross-attention head brings 40 % early."""
    heads = [f"{site}.h{head:02d}" for site, _ in sites() for head in range(HEADS)]
    windows = [("all", 20, 820), *((f"{first}-{last}", first, last) for first, last in PHASES.values())]
    rows = []
    for domain in DOMAINS:
        for target in heads:
            strong = effect and target == "down1.0.cross.h00"
            for direction in ("denoising", "noising"):
                for dose in (0.5, 1.0) if target.startswith("down1.0.cross") else (1.0,):
                    for window, first, last in windows:
                        value = dose * (0.4 if strong and window != "620-820" else 0.01)
                        p = 0.01 if strong else 0.7
                        key = (domain, "domain", "heads", target, direction, dose, window, first, last)
                        effects = (value, value - 0.02, value + 0.02, p, strong, 0.05, 100.0 if strong else 50.0)
                        rows.append((*key, *effects, 1.0, 0.2, 0.01, 7))
    columns = (
        "domain source group target direction dose window window_first window_last effect low high p_zero_max "
        "significant smallest control_percentile p_control_adjusted off difference n"
    )
    return pd.DataFrame(rows, columns=columns.split())


def doses_table(effect: bool) -> pd.DataFrame:
    """Return dose-responses; with an effect that of the strongest head saturates."""
    rows = []
    for domain in DOMAINS:
        for head in range(HEADS):
            for direction in ("denoising", "noising"):
                bent = effect and head == 0
                departure, p = (0.05, 0.01) if bent else (0.0, 0.8)
                slope = 0.4 if bent else 0.01
                key = (domain, "domain", "heads", f"down1.0.cross.h{head:02d}", direction)
                rows.append((*key, slope, departure, departure - 0.01, departure + 0.01, p, True, 7))
    columns = (
        "domain source group target direction slope departure departure_low departure_high p_linear_max monotone n"
    )
    return pd.DataFrame(rows, columns=columns.split())


def complexity_table(effect: bool) -> pd.DataFrame:
    """Return the three ratios; with an effect two of them differ from 1."""
    ratios = (1.12, 1.03, 0.99) if effect else (1.01, 1.0, 0.99)
    names = ("effective_heads_self", "effective_keys_self", "activation_participation")
    rows = [
        (name, 10.0 * ratio, 10.0, ratio, ratio - 0.02, ratio + 0.02, 0.001 if abs(ratio - 1) > 0.02 else 0.5)
        for name, ratio in zip(names, ratios, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["variant", "first", "second", "ratio", "low", "high", "p"])
    has_null = table["variant"] != "effective_heads_self"
    table = table.assign(
        p_holm=np.minimum(1, 3 * table["p"]),
        p_least=0.0015,
        n_first=32,
        n_second=32,
        untrained_low=np.where(has_null, 0.98, np.nan),
        untrained_high=np.where(has_null, 1.01, np.nan),
        untrained_n=np.where(has_null, 16, np.nan),
        p_untrained=np.where(has_null, np.where(table["p"] < 0.05, 0.05, 0.6), np.nan),
        smallest_ratio=[1.05, 1.02, 1.04],
    )
    table["p_untrained_max"] = table["p_untrained"]
    return table.assign(significant=(table["p_holm"] <= 0.05) & (table["p_untrained_max"] <= 0.05))


def write_benchmarks(folder: Path) -> None:
    """Write two benchmark files as Snakemake does."""
    for name, seconds in (("capture_attention/faces/drawn", 42.5), ("compare_domains", 3.25)):
        path = folder / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:42\t812.5\n", encoding="utf-8")


def resampling_table(effect: bool) -> pd.DataFrame:
    """Return a mechanism without which images lose their glasses, where there are effects, and an idle one."""
    rows = []
    for position, mechanism in enumerate(["cross-1", "self-1"]):
        strong = effect and position == 0
        for measure, value, clean in (
            ("ssim", 0.6 if strong else 0.98, 1.0),
            ("mse", 0.1 if strong else 0.001, 0.0),
            ("attribute:glasses", -0.2 if strong else 0.001, 0.5),
            ("asked:glasses", -0.4 if strong else 0.001, 0.95),
            ("attribute:hat", 0.002, 0.5),
            ("asked:hat", 0.002, 0.95),
            ("fd", 30.0 if strong else 0.1, 200.0),
            ("kid", 0.5 if strong else 0.0, 0.2),
        ):
            paired = measure in ("ssim", "mse")
            p = np.nan if paired else 0.002 if strong and "hat" not in measure else 0.6
            rows.append(
                {
                    "domain": DOMAINS[1],
                    "group": "mechanisms",
                    "target": mechanism,
                    "window": "all",
                    "measure": measure,
                    "clean": clean,
                    "effect": value,
                    "low": np.nan if measure in ("fd", "kid") else value - 0.05,
                    "high": np.nan if measure in ("fd", "kid") else value + 0.05,
                    "p_zero": p,
                    "p_zero_holm": p if np.isnan(p) else min(1.0, 4 * p),
                    "control_mean": 0.01,
                    "control_low": 0.0,
                    "control_high": 0.02,
                    "p_control": 0.04 if strong else 0.5,
                    "p_control_adjusted": 0.045 if strong else 1.0,
                    "flipped": 0.3 if strong and not paired else 0.0,
                    "heads": 4,
                    "steps_removed": 30,
                    "steps": 30,
                    "control_ratio": 1.0,
                    "controls": 20,
                    "controls_fair": True,
                    "n": 16,
                }
            )
    return pd.DataFrame(rows)


def write_resampled(path: Path, mechanisms: list[str]) -> None:
    """Write three images with nothing removed and without each mechanism."""
    targets = ["clean", *sorted(mechanisms)]
    images = np.random.default_rng(1).uniform(-1, 1, (len(targets), 3, 1, 32, 32)).astype(np.float32)
    text = np.dtypes.StringDType()
    store = xr.Dataset(
        {"image": (("row", "index", "channel", "y", "x"), images)},
        coords={
            "domain": ("row", np.array([DOMAINS[1]] * len(targets), dtype=text)),
            "target": ("row", np.array(targets, dtype=text)),
        },
        attrs={
            "absent": json.dumps([]),
            "calls": json.dumps({timestep: [site for site, _ in sites()] for timestep in range(0, 990, 33)}),
            "judge": json.dumps("the trained judge"),
            "accuracy": json.dumps({"glasses": 0.97}),
        },
    )
    write_store(path, store)
