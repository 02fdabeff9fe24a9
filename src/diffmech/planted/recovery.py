"""What an analysis found of a planted denoiser: which names and which effects are right, and which pair is redundant.

A name counts where a mechanism has one and its head confirms it; it is right where it is the planted one.

An effect counts where replacing the head alone raises the denoising loss, by two criteria. It is there: p_zero_holm at
most alpha (first method of ablation, over all timesteps). And it is not what random weights show: they are no circuit,
yet replacing a head of theirs changes a loss by some tenths of a percent too, which enough images make significant. So
the effect is ranked among the largest effects that untrained twins have, of any head in any domain (`p_untrained`, at
most alpha; Westfall & Young 1993). An untrained study is exchangeable with its twins, so the chance that anything at
all counts as an effect of it is at most alpha.

Every pair of heads is ablated together on the first images: the interaction is mse_both - mse_first -
mse_second + mse_clean, tested by random signs of its paired values and corrected by Holm over pairs. A pair is called
redundant where the interaction is significant, the single effects, summed, are less than a quarter of the joint effect
(each alone can do without the other), and the joint effect exceeds every effect of a head of the twins. Ours.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffmech.artifacts import read_json
from diffmech.attention.sites import HeadId, resolve_heads
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.config.study import UntrainedConfig
from diffmech.errors import ModelError
from diffmech.interventions.ablation import ablate_targets
from diffmech.interventions.reference import open_reference, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.tables import EFFECTS
from diffmech.interventions.targets import ALWAYS, HeadSpan, Target, single_heads
from diffmech.mechanisms.labels import UNASSIGNED
from diffmech.mechanisms.tables import MECHANISMS
from diffmech.models.load import load_denoiser
from diffmech.planted.roles import PAIR, ROLES
from diffmech.planted.tables import PAIRS, RECOVERY, SUMMARY
from diffmech.planted.untrained import largest_untrained_effects
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation

# Single effects together below this share of the joint effect make an interacting pair redundant. Two heads that just
# add one thing in equal amounts reach a half, since the loss is quadratic, and neither can do without the other.
REDUNDANT_SHARE = 0.25


def recover(
    model_json: Path | str,
    heads_csv: Path | str,
    effects_csv: Path | str,
    latents: Mapping[str, Sequence[Path | str]],
    reference: Sequence[Path | str],
    *,
    heads_output: Path | str,
    pairs_output: Path | str,
    summary_output: Path | str,
    symmetric: Mapping[str, bool],
    ablation: AblationConfig,
    untrained: UntrainedConfig,
    seed: int,
    runtime: RuntimeConfig,
) -> None:
    """Write what was found of each planted head and of each pair, per domain, and precision and recall of it all.

    `latents` are keyed by domain, `symmetric` says of which domains the fine structure is mirrored. The label of a head
    that does not confirm it is unassigned. Raises ModelError where `model_json` is no planted model.
    """
    pointer = read_json(Path(model_json))
    if "roles" not in pointer:
        raise ModelError(f"{model_json}: is of kind {pointer.get('kind')!r}, not planted, so nothing is known to find")
    roles: dict[str, str] = pointer["roles"]
    largest = largest_untrained_effects(
        model_json,
        latents,
        reference_ids=sorted({sample for _, sample in open_reference(reference).rows}),
        ablation=ablation,
        untrained=untrained,
        seed=seed,
        runtime=runtime,
    )
    heads = pd.concat(
        [
            recovered_heads(domain, roles, heads_csv, effects_csv, is_symmetric, largest, ablation)
            for domain, is_symmetric in symmetric.items()
        ],
        ignore_index=True,
    )
    pairs = pd.concat(
        [
            ablate_pairs(model_json, roles, domain, files, reference, ablation=ablation, seed=seed, runtime=runtime)
            for domain, files in latents.items()
        ],
        ignore_index=True,
    )
    pairs["redundant"] &= pairs["effect_both"] > largest.max()
    RECOVERY.write(heads_output, heads)
    PAIRS.write(pairs_output, pairs)
    SUMMARY.write(summary_output, summarise(heads, pairs))


def recovered_heads(
    domain: str,
    roles: Mapping[str, str],
    heads_csv: Path | str,
    effects_csv: Path | str,
    symmetric: bool,
    largest: np.ndarray,
    ablation: AblationConfig,
) -> pd.DataFrame:
    """Return the rows of `heads_output` of one domain. A head that phases name differently has its first name.

    `largest` are the largest effects of untrained twins.
    """
    names = MECHANISMS.read(heads_csv).drop_duplicates("head").set_index("head")
    effects = EFFECTS.read(effects_csv)
    chosen = (effects["domain"] == domain) & (effects["group"] == "heads") & (effects["timestep"] == "all")
    effects = effects[chosen & (effects["method"] == ablation.methods[0])].set_index("target")
    rows = []
    for head, name in roles.items():
        role, effect = ROLES[name], effects.loc[head]  # type: ignore[index]
        label = names.loc[head, "label"] if names.loc[head, "confirmed"] else UNASSIGNED
        causal = role.causal and (symmetric or not role.symmetric_only)
        raised = effect["p_zero_holm"] <= ablation.alpha and effect["effect_percent"] > 0
        p_untrained = permutation_p(effect["effect_percent"], largest)
        significant = bool(raised and p_untrained <= ablation.alpha)
        rows.append(
            {
                "domain": domain,
                "head": head,
                "role": name,
                "planted_label": role.label,
                "label": label,
                "label_right": label == role.label,
                "causal": causal,
                **{column: effect[column] for column in ("effect_percent", "low", "high", "p_zero_holm", "p_zero_max")},
                "p_untrained": p_untrained,
                "significant": significant,
                "effect_right": significant == causal or name in PAIR,
            }
        )
    return pd.DataFrame(rows).sort_values("head", ignore_index=True)


def ablate_pairs(
    model_json: Path | str,
    roles: Mapping[str, str],
    domain: str,
    latents: Sequence[Path | str],
    reference: Sequence[Path | str],
    *,
    ablation: AblationConfig,
    seed: int,
    runtime: RuntimeConfig,
) -> pd.DataFrame:
    """Return the rows of `pairs_output` of one domain, from single and joint ablations on the same passes."""
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    files, references = open_latent_files(latents), open_reference(reference)
    sites = tapped_sites(denoiser, files)
    singles = single_heads(sites)
    together = list(itertools.combinations(resolve_heads(["*"], sites), 2))
    joint = [
        Target(f"{first} {second}", (HeadSpan(first, *ALWAYS), HeadSpan(second, *ALWAYS))) for first, second in together
    ]
    result = ablate_targets(
        denoiser,
        sites,
        files,
        references,
        [*singles, *joint],
        samples=files.samples[: ablation.pair_samples],
        timesteps=sorted(files.nearest(ablation.timesteps or files.timesteps)),
        ablation=ablation.model_copy(update={"methods": ablation.methods[:1]}),
        seed=seed,
        runtime=runtime,
    )
    clean = result["mse_clean"].mean("timestep").values  # (sample,)
    ablated = result["mse_ablated"].isel(method=0).transpose("sample", "target", "timestep").mean("timestep").values
    raised = ablated - clean[:, None]  # (sample, target)
    position = {target.name: index for index, target in enumerate(singles)}
    first, second = (np.array([position[str(pair[side])] for pair in together]) for side in (0, 1))
    both = raised[:, len(singles) :]
    interaction = both - raised[:, first] - raised[:, second]
    observed, null = sign_flip_permutation(np.abs, interaction, permutations=ablation.permutations, seed=seed)
    p = holm(np.asarray(permutation_p(observed, null)))
    percent = 100 / clean.mean()
    alone = (raised[:, first] + raised[:, second]).mean(axis=0)
    redundant = (p < ablation.alpha) & (interaction.mean(axis=0) > 0) & (alone < REDUNDANT_SHARE * both.mean(axis=0))
    return pd.DataFrame(
        {
            "domain": domain,
            "first": [str(pair[0]) for pair in together],
            "second": [str(pair[1]) for pair in together],
            "planted": [_is_planted(pair, roles) for pair in together],
            "effect_first": percent * raised[:, first].mean(axis=0),
            "effect_second": percent * raised[:, second].mean(axis=0),
            "effect_both": percent * both.mean(axis=0),
            "interaction": percent * interaction.mean(axis=0),
            "p_holm": p,
            "redundant": redundant,
        }
    )


def summarise(heads: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return precision (right / found) and recall (right / planted) of names, effects, mechanisms and redundant pairs.

    A mechanism is a head with a name and an effect. Names are counted once, since both domains share them; the rest per
    domain. NaN where there is none. What a head of the pair costs alone is not counted: what stands in its place is a
    mean over reference images, never quite 0, which costs tenths of a percent where the image is of the other sign.
    """
    named = heads.drop_duplicates("head")
    has_name, counted = heads["label"] != UNASSIGNED, heads["significant"] & ~heads["role"].isin(PAIR)
    rows = {
        "label": (named["planted_label"] != UNASSIGNED, named["label"] != UNASSIGNED, named["label_right"]),
        "effect": (heads["causal"], counted, heads["effect_right"]),
        "mechanism": (
            heads["causal"] & (heads["planted_label"] != UNASSIGNED),
            counted & has_name,
            heads["label_right"] & heads["effect_right"],
        ),
        "redundant pair": (pairs["planted"], pairs["redundant"], pairs["planted"]),
    }
    table = []
    for what, (planted, found, right) in rows.items():
        hits = int((planted & found & right).sum())
        counts = {"planted": int(planted.sum()), "found": int(found.sum()), "right": hits}
        rates = {
            "precision": hits / counts["found"] if counts["found"] else np.nan,
            "recall": hits / counts["planted"] if counts["planted"] else np.nan,
        }
        table.append({"what": what, **counts, **rates})
    return pd.DataFrame(table)


def _is_planted(pair: tuple[HeadId, HeadId], roles: Mapping[str, str]) -> bool:
    return {roles[str(head)] for head in pair} == set(PAIR)
