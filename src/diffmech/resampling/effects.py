"""What removing heads does to whole images, as a table: paired with the clean images, and beside matched controls.

Paired with the clean image of the same seed: structural similarity (Wang et al. 2004), mean squared error, and how much
surer the judge is of each attribute (`attribute:`), also counted towards what was asked for (`asked:`; below 0, the
image shows less of it). Of the whole set: Frechet and kernel distance to clean images of other seeds, less those of the
clean images themselves, which stand in the column `clean`. This set of measures is ours.

Likeness and error are means over seeds, with bootstrap intervals; they can only be on one side of no change, so their
null are the controls. A judge's probabilities are nearly 0 or 1 and flip in few images, so that no interval of their
mean holds with a dozen seeds: of attributes it is the median change, whose interval and test hold for any distribution
(`diffmech.statistics.median`; the test asks whether the judge grew surer in as many images as less sure). Distances
have no interval: with 8 or 16 images neither bootstrap nor jackknife of a covariance or a kernel holds (0.69 to 0.99
instead of 0.95). Their p is exact: swaps of clean and ablated images.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import progress, provenance, write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.interventions.controls import BALANCE, balance, control_summary
from diffmech.judging.distances import DISTANCES, distance_excess
from diffmech.judging.likeness import squared_error, structural_similarity
from diffmech.judging.panel import Panel, open_panel
from diffmech.resampling.controls import ASKED, ATTRIBUTE, change, corrected_among_controls, is_judged
from diffmech.resampling.images import Part, open_parts
from diffmech.resampling.tables import RESAMPLING
from diffmech.statistics.bootstrap import Interval, bootstrap_mean
from diffmech.statistics.median import median_interval, sign_test
from diffmech.statistics.multiplicity import holm
from diffmech.tables import ALL

logger = logging.getLogger(__name__)

TEXT = np.dtypes.StringDType()


@dataclass(frozen=True)
class Seen:
    """What was measured of some images: features `(image, feature)`, probabilities `(image, attribute)`, and, beside
    the clean images, `ssim` and `mse` `(image,)`."""

    features: np.ndarray
    probabilities: np.ndarray
    ssim: np.ndarray
    mse: np.ndarray


def resampling_effects(
    stores: Mapping[str, Sequence[Path | str]],
    output_csv: Path | str,
    examples: Path | str,
    *,
    judge: Path | str | None,
    resampling: ResamplingConfig,
    seed: int,
    runtime: RuntimeConfig,
    why_none: str = "",
    root: Path | str = ".",
) -> None:
    """Write the table of effects from the parts of each domain, and a store of example images for the report.

    Rows are by domain, group, target, window ("all" or first-last timestep) and measure: ssim, mse, fd, kid,
    attribute:<name>, asked:<name>. What is not measured is left out, and named with its reason in `absent` of the
    examples and in the log. `why_none` says why there is nothing at all; the path of a detector may count from `root`.
    Raises what reading stores and judges raises.
    """
    domains = {name: open_parts(paths) for name, paths in sorted(stores.items()) if paths}
    absent = [why_none] if why_none else []
    measured: dict[str, _Measured] = {}
    pictures: list[xr.Dataset] = []
    about: dict[str, object] = {"calls": _calls(domains)}
    if domains:
        panel = open_panel(resampling, judge, device=runtime.device, root=root)
        absent += panel.absent
        about |= {"space": panel.space, "judge": panel.judge, "accuracy": panel.accuracy}
        about["detector"] = "" if resampling.detector is None else resampling.detector.function
    for name, parts in domains.items():
        label = str(parts[0].store.attrs["domain"])
        if label in measured:
            absent.append(f"domain {name}: the denoiser knows no domains, so its images are those of {label}")
            continue
        measured[label] = _Measured(parts, panel, resampling, seed, runtime.progress)
        pictures.append(_examples(parts, label, resampling.examples))
    for reason in absent:
        logger.warning("not measured: %s", reason)
    RESAMPLING.write(output_csv, _effects(measured))
    store = xr.concat(pictures, "row") if pictures else xr.Dataset(coords={"row": np.empty(0, np.int64)})
    store.attrs = {
        "absent": json.dumps(absent),
        **{key: json.dumps(value) for key, value in about.items()},
        "provenance": provenance(rule="resampling_effects", resampling=resampling.canonical(), seed=seed),
    }
    write_store(examples, store)


def domain_effects(
    parts: Sequence[Part],
    panel: Panel,
    domain: str,
    *,
    resampling: ResamplingConfig,
    seed: int,
    show: bool = False,
) -> pd.DataFrame:
    """Return the rows of one domain, whose removals are spread over `parts`."""
    return _effects({domain: _Measured(parts, panel, resampling, seed, show)})


def _effects(measured: Mapping[str, "_Measured"]) -> pd.DataFrame:
    """Return the rows of all domains. Ranks among controls are corrected over targets and domains, and attributes."""
    tables = [each.table(domain) for domain, each in measured.items()]
    if all(table.empty for table in tables):
        return RESAMPLING.frame()
    table = pd.concat([table for table in tables if not table.empty], ignore_index=True)
    adjusted = corrected_among_controls({domain: each.changes_among_controls() for domain, each in measured.items()})
    keys = table[["domain", "target", "measure"]].itertuples(index=False, name=None)
    p = pd.Series([adjusted.get(key, np.nan) for key in keys], dtype=float).where(table["window"] == ALL)
    return RESAMPLING.in_order(table.assign(p_control_adjusted=p))


@dataclass(frozen=True)
class _Target:
    name: str
    group: str
    window: str
    heads: int
    steps: tuple[int, int]
    balance: dict[str, object]
    clean: Seen
    seen: Seen


class _Measured:
    """All images of one domain, looked at once."""

    def __init__(
        self, parts: Sequence[Part], panel: Panel, resampling: ResamplingConfig, seed: int, show: bool
    ) -> None:
        self.panel, self.resampling, self.seed = panel, resampling, seed
        self.asked = _asked(parts[0].store, panel.attributes)
        self.targets: list[_Target] = []
        self.controls: dict[str, list[tuple[Seen, Seen]]] = {}
        self.pools: dict[str, list[dict[str, float]]] | None = None
        reference = [part.images("others") for part in parts if part.store.sizes["other"]]
        self.reference = self._features(torch.cat(reference))
        self.distances = DISTANCES if panel.features is not None else {}
        names = ("ablated", "matched")
        work = [(part, name, row) for part in parts for name in names for row in range(len(part.store[name]))]
        clean: dict[Path, tuple[Tensor, Seen]] = {}
        for part, name, row in progress(work, "judging images", total=len(work), show=show):
            if part.path not in clean:
                images = part.images("clean")
                clean[part.path] = images, self._see(images, images)
            images, own = clean[part.path]
            changed = part.images(name, row)
            seen = self._see(changed, images)
            if name == "matched":
                self.controls.setdefault(part.texts("control_of")[row], []).append((own, seen))
            else:
                kept = [part.texts(coordinate)[row] for coordinate in ("target", "group", "window")]
                heads, matched = int(part.store["heads"][row]), _balance(part, row)
                steps = int(part.store["steps_removed"][row]), part.store.sizes["step"]
                self.targets.append(_Target(kept[0], kept[1], kept[2], heads, steps, matched, own, seen))

    def _features(self, images: Tensor) -> np.ndarray:
        return np.empty((len(images), 0)) if self.panel.features is None else self.panel.features(images)

    def _see(self, images: Tensor, clean: Tensor) -> Seen:
        pairs = list(zip(images.numpy(), clean.numpy(), strict=True))
        return Seen(
            self._features(images),
            self.panel.probabilities(images),
            np.array([structural_similarity(*pair) for pair in pairs]),
            np.array([squared_error(*pair) for pair in pairs]),
        )

    def changes(self, clean: Seen, seen: Seen) -> dict[str, np.ndarray]:
        """Return the paired measures, `(image,)` each."""
        found = {"ssim": seen.ssim, "mse": seen.mse}
        change = seen.probabilities - clean.probabilities
        for column, name in enumerate(self.panel.attributes):
            found[ATTRIBUTE + name] = change[:, column]
        for column, name in enumerate(self.panel.attributes):
            if np.isfinite(self.asked[:, column]).all():
                found[ASKED + name] = change[:, column] * self.asked[: len(change), column]
        return found

    def effects(self, clean: Seen, seen: Seen) -> dict[str, float]:
        """Return every measure of some images: means, of attributes medians."""
        found = {
            name: float(np.median(values) if is_judged(name) else values.mean())
            for name, values in self.changes(clean, seen).items()
        }
        once = np.ones((1, len(clean.ssim)))
        for name, distances in self.distances.items():
            ablated, floor = (distances(each.features, self.reference, once)[0] for each in (seen, clean))
            found[name] = float(ablated - floor)
        return found

    def table(self, domain: str) -> pd.DataFrame:
        """Return the rows of all targets, but for what is corrected over domains."""
        rows = [row for target in self.targets for row in self.rows(target)]
        if not rows:
            return RESAMPLING.frame()
        table = pd.DataFrame(rows).assign(domain=domain)
        judged = table["measure"].map(is_judged)
        table["p_zero_holm"] = np.nan
        for family in (judged, *(table["measure"] == name for name in DISTANCES)):
            table.loc[family, "p_zero_holm"] = holm(table.loc[family, "p_zero"])
        order = {measure: place for place, measure in enumerate(dict.fromkeys(table["measure"]))}
        table = table.join(self.against_controls(list(order)), on=["target", "window", "measure"])
        table = table.assign(place=table["measure"].map(order))
        return table.sort_values(["group", "target", "window", "place"], kind="stable", ignore_index=True)

    def rows(self, target: _Target) -> list[dict[str, object]]:
        """Return the rows of one target, without its controls."""
        settings, clean, seen = self.resampling, target.clean, target.seen
        base = {
            "group": target.group,
            "target": target.name,
            "window": target.window,
            "heads": target.heads,
            "steps_removed": target.steps[0],
            "steps": target.steps[1],
            **target.balance,
            "n": len(seen.ssim),
            "flipped": np.nan,
        }
        rows: list[dict[str, object]] = []
        for measure, values in self.changes(clean, seen).items():
            kind, _, name = measure.rpartition(":")
            row = {"clean": {"ssim": 1.0, "mse": 0.0}.get(measure, np.nan), "p_zero": np.nan}
            if is_judged(measure):
                found, p = attribute_change(values, settings.confidence)
                row["p_zero"] = float(p)
                column = self.panel.attributes.index(name)
                towards = self.asked[:, column] if kind + ":" == ASKED else np.ones(len(values))
                sure = clean.probabilities[:, column]
                row["clean"] = float(np.where(towards > 0, sure, 1 - sure).mean())
                row["flipped"] = float(((sure > 0.5) != (seen.probabilities[:, column] > 0.5)).mean())
            else:
                found = bootstrap_mean(values, draws=settings.draws, confidence=settings.confidence, seed=self.seed)
            interval = {"effect": found.estimate, "low": found.low, "high": found.high}
            rows.append({**base, "measure": measure, **interval, **row})
        return rows + [{**base, "measure": name, **self._distance(name, clean, seen)} for name in self.distances]

    def _distance(self, name: str, clean: Seen, seen: Seen) -> dict[str, float]:
        """Return excess and p of one distance, and that it has no interval."""
        settings = self.resampling
        floor, excess, p = distance_excess(
            DISTANCES[name],
            clean.features,
            seen.features,
            self.reference,
            swaps=settings.distance_draws,
            seed=self.seed,
        )
        return {"clean": floor, "effect": excess, "low": np.nan, "high": np.nan, "p_zero": p}

    def against_controls(self, measures: Sequence[str]) -> pd.DataFrame:
        """Return the columns about controls by (target, window, measure), on the same images."""
        names = ["control_mean", "control_low", "control_high"]
        found, index = [], []
        for name, pool in self._pools().items():
            for measure in measures:
                values = np.array([one[measure] for one in pool])
                summary = control_summary(values[:1], [values[1:]], confidence=self.resampling.confidence)
                moved = change(measure, values)
                p = control_summary(moved[:1], [moved[1:]], confidence=self.resampling.confidence)["p_control"][0]
                found.append([*(summary[column][0] for column in names), p, len(values) - 1])
                index.append((name, ALL, measure))
        keys = pd.MultiIndex.from_arrays(
            list(zip(*index, strict=True)) or [[]] * 3, names=["target", "window", "measure"]
        )
        return pd.DataFrame(found, columns=[*names, "p_control", "controls"], index=keys, dtype=float)

    def changes_among_controls(self) -> dict[str, dict[str, np.ndarray]]:
        """Return by target and measure how much changed without it, and without each of its controls."""
        return {
            name: {measure: change(measure, np.array([one[measure] for one in pool])) for measure in pool[0]}
            for name, pool in self._pools().items()
        }

    def _pools(self) -> dict[str, list[dict[str, float]]]:
        """Return the effects of each target that has controls, and of these behind it."""
        if self.pools is None:
            tested = [t for t in self.targets if t.window == ALL and self.controls.get(t.name)]
            self.pools = {
                t.name: [self.effects(*pair) for pair in [(t.clean, t.seen), *self.controls[t.name]]] for t in tested
            }
        return self.pools


def attribute_change(changes: np.ndarray, confidence: float) -> tuple[Interval, np.ndarray | float]:
    """Return the median change `(...)` of a judge's probabilities `(image, ...)`, its interval, and p of no change."""
    return median_interval(changes, confidence=confidence), sign_test(changes)


def _balance(part: Part, row: int) -> dict[str, object]:
    """Return how well the controls of a target match it; their number is that of those run."""
    names = {**{name: np.nan for name in BALANCE if name != "controls"}, "control_pool": "", "controls_fair": False}
    return {name: balance(part.store, name, otherwise)[row] for name, otherwise in names.items()}


def _asked(store: xr.Dataset, attributes: Sequence[str]) -> np.ndarray:
    """Return +1 where an attribute was asked for, -1 where its absence was, NaN where neither, `(image, attribute)`."""
    asked = np.full((store.sizes["image"], len(attributes)), np.nan)
    known = [str(name) for name in store["attribute"].values] if "asked" in store else []
    for column, name in enumerate(attributes):
        if name in known:
            values = store["asked"].values[:, known.index(name)]
            asked[:, column] = np.where(np.isnan(values), np.nan, np.where(values > 0.5, 1.0, -1.0))
    return asked


def _calls(domains: Mapping[str, Sequence[Part]]) -> dict[int, list[str]]:
    """Return the attention calls that were seen in passes at each sampling timestep."""
    found: dict[int, set[str]] = {}
    for part in (part for parts in domains.values() for part in parts):
        for timestep, called in zip(part.store["timestep"].values, part.texts("calls"), strict=True):
            found.setdefault(int(timestep), set()).update(called.split())
    return {timestep: sorted(called) for timestep, called in sorted(found.items())}


def _examples(parts: Sequence[Part], domain: str, count: int) -> xr.Dataset:
    """Return the first images, clean and without each target, as rows of `image` (row, index, channel, y, x)."""
    rows = [("clean", parts[0].images("clean")[:count])]
    found = [(name, part, row) for part in parts for row, name in enumerate(part.texts("target"))]
    for name, part, row in sorted(found, key=lambda item: item[0]):
        if part.texts("window")[row] == ALL:
            rows.append((name, part.images("ablated", row)[:count]))
    images = np.stack([images.numpy() for _, images in rows])
    return xr.Dataset(
        {"image": (("row", "index", "channel", "y", "x"), images, {"units": "1", "long_name": "generated image"})},
        coords={
            "domain": ("row", np.array([domain] * len(rows), dtype=TEXT)),
            "target": ("row", np.array([name for name, _ in rows], dtype=TEXT)),
        },
    )
