"""The store of head features: what each head does at each timestep, with the nulls that later steps need. Ours.

Everything that needs the captured attention is computed here in one pass, one site and timestep at a time; phases,
clusters and labels then need this small store only. Features (`diffmech.mechanisms.descriptors`), in which domains
weigh equally, are of the half of the images on which clusters are found (`diffmech.statistics.halves`). All else is of
the other half, which tests them: per domain the features, the probes (`diffmech.mechanisms.probes`) with their null
draws, and the excess of each head of each untrained twin, on the images that the twins saw.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diffmech.artifacts import provenance, write_store
from diffmech.config.analysis import MechanismsConfig
from diffmech.data.groups import GroupTables
from diffmech.errors import DataError, StoreError
from diffmech.mechanisms.captured import (
    Site,
    open_domains,
    open_untrained,
    read,
    read_quantities,
    sites_of,
    timesteps_of,
    token_groups,
    units_of,
)
from diffmech.mechanisms.descriptors import describe, feature_names
from diffmech.mechanisms.probes import (
    PLACES,
    TOKEN,
    NullDraws,
    Ratios,
    content,
    draw_nulls,
    map_ratios,
    place_ratios,
    rolled_null,
)
from diffmech.mechanisms.reference_maps import GridMaps, load_reference_maps, shared_parts
from diffmech.statistics.bootstrap import resampling_weights
from diffmech.statistics.halves import FEWEST, finding
from diffmech.statistics.units import Groups, codes, number_of_units, spread, unit_weights

# Sites differ in their probes; all else agrees by construction, and checking that takes longer than the statistics.
JOIN: dict[str, Any] = {"join": "outer", "coords": "minimal", "compat": "override", "data_vars": "all"}

# What each variable of the store means, and its unit.
MEANING = {
    "features": ("mixed", "features, mean over domains, of the images on which clusters are found"),
    "features_bootstrap": ("mixed", "the same of these images, resampled"),
    "features_by_domain": ("mixed", "features of each domain, of the images on which clusters are tested"),
    "ratio": ("times uniform", "attention on the probe over that of uniform attention"),
    "excess": ("1", "share of attention on the probe beyond chance"),
    "excess_seen": ("1", "the same on the images that the untrained twins saw"),
    "untrained_excess": ("1", "the same of each head of each untrained twin"),
    "rolled_null": ("times uniform", "ratio on rolled maps"),
    "content": ("times uniform", "ratio on a sample's own map minus that on other samples' maps"),
    "content_null": ("times uniform", "the same with the maps dealt out anew among the samples"),
    "images": ("1", "images, or units of them, with a valid map, of which content can be told"),
    "found_on": ("1", "images on which clusters are found"),
    "tested_on": ("1", "images on which they are tested, of which is all but features and features_bootstrap"),
}


def head_features(
    attention: Mapping[str, Sequence[Path]],
    latents: Mapping[str, Sequence[Path]],
    datasets: Mapping[str, Path],
    untrained: Mapping[str, Path],
    output: Path,
    *,
    mechanisms: MechanismsConfig,
    tested: int,
    seed: int,
    groups: GroupTables | None = None,
    threads: int = 1,
) -> None:
    """Write the store of features, probes and nulls of every head and timestep; all mappings are keyed by domain.

    `latents` give the clean images, `datasets` the part masks; the first `tested` images are of the half that tests, as
    `diffmech.statistics.halves` says. Dimensions are domain, head, timestep, feature, probe (1
    under uniform attention), map (the probes that are reference maps), draw (resampled images), null_draw and twin (of
    an untrained twin, `head` is its head at the same place); variables are listed in `MEANING`. Where `groups` are
    given (tables by domain), units take the place of images in means, resampling and nulls, and none is in both halves.
    So many timesteps of a site are described at a time as there are `threads`; the store is the same for any number.
    Raises StoreError for inputs that do not fit together, DataError for a domain with fewer than 2 images on which
    clusters are found.
    """
    trees = open_domains(attention, groups)
    twins, seen = open_untrained(untrained, trees)
    sites, timesteps = sites_of(next(iter(trees.values()))), timesteps_of(next(iter(trees.values())))
    grids = [site.grid for site in sites if site.spatial]
    coarsest = (min((grid[0] for grid in grids), default=1), min((grid[1] for grid in grids), default=1))
    parts = shared_parts(datasets, mechanisms.probes)
    studies = []
    for domain, tree in trees.items():
        ids = tree.coords["sample"].values
        maps = load_reference_maps(
            latents[domain], datasets[domain], sample_ids=ids, probes=mechanisms.probes, parts=parts, grids=grids
        )
        of_tokens = {site.name: token_groups(tree, site) for site in sites}
        belong = units_of(tree)
        finds, tests = _halves(domain, ids, tested, belong)
        if not np.isin(seen[domain], tests).all():
            raise StoreError(
                f"{untrained[domain]}: the untrained twins saw images on which clusters are found; capture them anew"
            )
        halves = [_Half.of(rows, maps, of_tokens, belong) for rows in (finds, tests)]
        count = number_of_units(len(finds), halves[0].units)
        resampled = resampling_weights(count, mechanisms.stability_draws, seed)
        studies.append(
            _Study(
                domain=domain,
                attention=tree,
                finding=halves[0],
                testing=halves[1],
                twins=twins[domain],
                seen=np.searchsorted(tests, seen[domain]),
                weights=spread(np.concatenate([np.full((1, count), 1 / count), resampled]), halves[0].units),
                draws=draw_nulls(seed, domain, len(tests), mechanisms.rolls, coarsest, halves[1].units),
            )
        )
    with ThreadPoolExecutor(threads) as pool:
        of_sites = [_features_of_site(site, timesteps, studies, mechanisms.probes, pool) for site in sites]
    store = xr.concat(of_sites, "head", **JOIN)
    maps_names = next(iter(studies[0].testing.maps.values())).names if grids else ()
    tokens = dict.fromkeys(TOKEN + token for site in sites for token in site.tokens)
    store = store.reindex(probe=[*PLACES, *maps_names, *tokens], map=list(maps_names))
    store["images"] = (("domain", "map"), [_images(study.testing, len(maps_names)) for study in studies])
    store["found_on"] = ("domain", [len(study.finding.rows) for study in studies])
    store["tested_on"] = ("domain", [len(study.testing.rows) for study in studies])
    for name, (units, long_name) in MEANING.items():
        store[name].attrs = {"units": units, "long_name": long_name}
    store.attrs = {"domains": [study.domain for study in studies], "provenance": provenance(seed=seed)}
    write_store(output, store.astype(np.float32).transpose(..., "head", "timestep"))


def _halves(domain: str, ids: np.ndarray, tested: int, units: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the samples on which clusters are found, and of those on which they are tested."""
    finds = np.array(finding(ids.tolist(), tested, None if units is None else units.tolist()), dtype=bool)
    if number_of_units(int(finds.sum()), None if units is None else units[finds]) < FEWEST:
        if units is not None:
            raise DataError(
                f"{domain}: of {number_of_units(len(ids), units)} groups of images "
                f"{number_of_units(int(finds.sum()), units[finds])} are left on which clusters of heads are found, "
                f"beside those that hold one of the first {tested} images, on which they are tested; give images of "
                f"more groups (at least {FEWEST} more), or lower ablation.reference_samples, untrained.samples or the "
                "samples of ablation, discovery, circuit or patching"
            )
        raise DataError(
            f"{domain}: of {len(ids)} captured images {finds.sum()} are left on which clusters of heads are found, "
            f"beside the first {tested} on which they are tested; give at least {tested + FEWEST} images, or lower "
            "ablation.reference_samples, untrained.samples or the samples of ablation, discovery, circuit or patching"
        )
    return np.flatnonzero(finds), np.flatnonzero(~finds)


@dataclass(frozen=True)
class _Half:
    """Half of the samples of one domain: their positions in the capture, and their maps and tokens.

    `groups` (sample, key) are those of the tokens of each site, None where tokens are the same for all samples; `units`
    (sample,) number those of the samples, None where each is its own.
    """

    rows: np.ndarray
    maps: dict[tuple[int, int], GridMaps]
    groups: dict[str, np.ndarray | None]
    units: Groups

    @classmethod
    def of(
        cls,
        rows: np.ndarray,
        maps: Mapping[tuple[int, int], GridMaps],
        groups: Mapping[str, np.ndarray | None],
        units: Groups,
    ) -> "_Half":
        return cls(
            rows,
            {grid: of_grid.select(rows) for grid, of_grid in maps.items()},
            {site: None if of_keys is None else of_keys[rows] for site, of_keys in groups.items()},
            None if units is None else codes(units[rows]),
        )

    def select(
        self, quantities: Mapping[str, np.ndarray], received: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return what was captured of these samples alone."""
        return {name: values[self.rows] for name, values in quantities.items()}, received[self.rows]


@dataclass(frozen=True)
class _Study:
    """One domain: its capture, its halves, its twins, and everything drawn for its samples.

    `seen` are the samples that the twins saw, as positions in the half that tests. `weights` are of the half that
    finds, the first row all of it alike, the others resampled; `draws` are of the half that tests.
    """

    domain: str
    attention: xr.DataTree
    finding: _Half
    testing: _Half
    twins: xr.DataTree
    seen: np.ndarray
    weights: np.ndarray
    draws: NullDraws


def _features_of_site(
    site: Site, timesteps: Sequence[int], studies: Sequence[_Study], probes: Sequence[str], pool: ThreadPoolExecutor
) -> xr.Dataset:
    """Return everything about one site, along timestep."""
    quantities = [read_quantities(study.attention, site) for study in studies]
    of_twins = [read_quantities(study.twins, site) for study in studies]

    def at(timestep: int) -> xr.Dataset:
        now, twins_now = ([of_domain[timestep] for of_domain in each] for each in (quantities, of_twins))
        return _features_of(site, timestep, studies, now, twins_now, probes)

    along = xr.concat(list(pool.map(at, timesteps)), xr.Variable("timestep", timesteps), **JOIN)
    # Not within threads: xarray turns off the warning of a mean of missing values only, for all of them or for none.
    features = along["features"].mean("domain", skipna=True)
    return (
        along.drop_vars("features")
        .assign(
            features=features.isel(draw=0),
            features_bootstrap=features.isel(draw=slice(1, None)),
        )
        .assign_coords(site=("head", [site.name] * len(site.heads)), kind=("head", [site.kind] * len(site.heads)))
    )


def _features_of(
    site: Site,
    timestep: int,
    studies: Sequence[_Study],
    quantities: Sequence[dict[str, np.ndarray]],
    of_twins: Sequence[dict[str, np.ndarray]],
    probes: Sequence[str],
) -> xr.Dataset:
    """Return everything about one site at one timestep; `quantities` and `of_twins` are those of each study."""
    found = [
        _features_of_domain(site, of_domain, read(study.attention, site, "received", timestep), study, probes).assign(
            untrained_excess=_untrained_excess(site, timestep, study, twins)
        )
        for study, of_domain, twins in zip(studies, quantities, of_twins, strict=True)
    ]
    return xr.concat(found, xr.Variable("domain", [study.domain for study in studies]))


def _features_of_domain(
    site: Site, quantities: dict[str, np.ndarray], received: np.ndarray, study: _Study, probes: Sequence[str]
) -> xr.Dataset:
    of_finding, received_finding = study.finding.select(quantities, received)
    quantities, received = study.testing.select(quantities, received)
    units = study.testing.units
    maps = study.testing.maps[site.grid] if site.spatial else None
    own, own_finding = None, None
    if maps is not None:
        own = map_ratios(received, maps, units)
        own_finding = map_ratios(received_finding, study.finding.maps[site.grid], study.finding.units)
    features = describe(site, of_finding, received_finding, own_finding, study.weights, probes)
    by_domain = describe(site, quantities, received, own, unit_weights(len(received), units)[None], probes)
    places = place_ratios(site, quantities, received, study.testing.groups[site.name], units)
    ratios = [places] if own is None else [places, own]
    none = np.empty((len(study.draws.rolls), len(site.heads), 0))
    rolled, observed, dealt = none, none[0], none
    if maps is not None:
        rolled = rolled_null(received, maps, study.draws)
        observed, dealt = content(received, maps, study.draws)
    seen = _ratios(site, {name: values[study.seen] for name, values in quantities.items()}, received[study.seen], study)
    return xr.Dataset(
        {
            "features": (("draw", "feature", "head"), features),
            "features_by_domain": (("feature", "head"), by_domain[0]),
            "ratio": (("head", "probe"), np.concatenate([each.mean() for each in ratios], axis=-1)),
            "excess": (("head", "probe"), np.concatenate([each.excess() for each in ratios], axis=-1)),
            "excess_seen": (("head", "probe"), np.concatenate([each.excess() for each in seen], axis=-1)),
            "rolled_null": (("null_draw", "head", "map"), rolled),
            "content": (("head", "map"), observed),
            "content_null": (("null_draw", "head", "map"), dealt),
        },
        coords={
            "head": list(site.heads),
            "feature": list(feature_names(probes)),
            "probe": [name for each in ratios for name in each.names],
            "map": [] if own is None else list(own.names),
        },
    )


def _untrained_excess(
    site: Site, timestep: int, study: _Study, quantities: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the excess of the twins at one site, (twin, head, probe), computed as for the study itself."""
    received = read(study.twins, site, "received", timestep)
    of_twins = []
    for twin in range(len(received)):
        ratios = _ratios(site, {name: values[twin] for name, values in quantities.items()}, received[twin], study)
        of_twins.append(np.concatenate([each.excess() for each in ratios], axis=-1))
    return ("twin", "head", "probe"), np.stack(of_twins)


def _images(half: _Half, probes: int) -> np.ndarray:
    """Return how many images, or units of them, have a valid map of each probe, on the grid that has fewest."""
    counts = [
        [number_of_units(int(there.sum()), None if half.units is None else half.units[there]) for there in maps.valid.T]
        for maps in half.maps.values()
    ]
    return np.min(counts or [[0] * probes], axis=0).astype(int)


def _ratios(site: Site, quantities: dict[str, np.ndarray], received: np.ndarray, study: _Study) -> list[Ratios]:
    """Return the probes on the images that the twins saw."""
    groups = study.testing.groups[site.name]
    units = None if study.testing.units is None else study.testing.units[study.seen]
    places = place_ratios(site, quantities, received, None if groups is None else groups[study.seen], units)
    if not site.spatial:
        return [places]
    return [places, map_ratios(received, study.testing.maps[site.grid].select(study.seen), units)]
