"""Where images belong together, circuits are chosen on some persons and tested on others, who are what is counted."""

import json

import numpy as np
import pandas as pd
from planted_halves import IMAGES, RUNTIME, TIMESTEPS
from test_circuit_discovery import SETTINGS

from diffmech.circuits.discovery import TABLES, discover_circuit
from diffmech.circuits.edges import circuit_edges
from diffmech.circuits.kept import KeptHeads
from diffmech.config.circuit import CircuitConfig
from diffmech.statistics.units import over_units
from diffmech.testing import assert_same_up_to_rounding


def test_no_group_of_images_is_in_both_halves_and_persons_are_counted(planted, tmp_path) -> None:
    persons = [str(k % 5) for k in range(IMAGES)]  # in turns, so that halves by number would divide each of them
    pd.DataFrame({"sample": range(IMAGES), "group": persons}).to_csv(tmp_path / "groups.csv", index=False)
    outputs = {name: tmp_path / name for name in ("summary", *TABLES)}
    discover_circuit(
        *([planted.latents], planted.model_json, [planted.reference], [], outputs),
        domain="symmetric",
        discovery=SETTINGS.model_copy(update={"ranking": "attribution"}),
        circuit=CircuitConfig(),
        method="mean",
        samples=IMAGES,
        timesteps=TIMESTEPS,
        seed=0,
        runtime=RUNTIME,
        groups={"symmetric": tmp_path / "groups.csv"},
    )
    summary = json.loads(outputs["summary"].read_text())
    first, second = ({persons[k] for k in summary[name]} for name in ("discovery_samples", "test_samples"))
    assert (first, second) == ({"0", "1"}, {"2", "3", "4"})
    assert (summary["discovery_units"], summary["test_units"], summary["samples"]) == (2, 3, 3)
    assert pd.read_csv(outputs["edges"])["n"].unique().tolist() == [3]


def test_losses_of_persons_are_the_means_over_their_images(halves) -> None:
    kept = halves[0]
    groups = np.array(list("aabbbcac"))
    of_persons = KeptHeads(
        *(kept.denoiser, kept.sites, kept.files, kept.references),
        samples=kept.samples,
        timesteps=TIMESTEPS,
        method="mean",
        seed=0,
        runtime=RUNTIME,
        groups=groups,
    )
    sets = [kept.everything, frozenset(kept.heads[:3])]
    # passes of the network itself, in float32
    assert_same_up_to_rounding(of_persons.losses(sets), over_units(kept.losses(sets), groups, axis=1))
    assert (of_persons.units, kept.units) == (3, 8)
    edges = [circuit_edges(each, kept.heads[:2], discovery=SETTINGS, seed=0) for each in (kept, of_persons)]
    assert [table["n"].unique().tolist() for table in edges] == [[8], [3]]
