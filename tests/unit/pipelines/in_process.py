"""A whole study in one process: what the rules do, in their order, without a new Python for every job."""

from pathlib import Path

import pandas as pd

from diffmech.attention.capture import capture_attention
from diffmech.attention.generated import generate_images, generated_latents
from diffmech.attention.untrained import capture_untrained
from diffmech.circuits.discovery import discover_circuit
from diffmech.config.images import Prompts
from diffmech.config.study import NOTHING
from diffmech.data.comparison import compare_domains
from diffmech.data.store import prepare_dataset
from diffmech.heads.paths import ABLATION, ATTENTION, CIRCUIT, LATENTS, PATCHING, REFERENCE, Heads
from diffmech.heads.resamplings import RESAMPLED, named_resampled, resampled_names
from diffmech.heads.tables import reported
from diffmech.interventions.ablation import ablate_heads
from diffmech.interventions.effects import ablation_effects
from diffmech.interventions.patching_study import patch_data_set
from diffmech.interventions.patching_table import patching_effects
from diffmech.interventions.reference import reference_outputs
from diffmech.interventions.windows import ablation_windows
from diffmech.mechanisms.account import mechanism_account
from diffmech.mechanisms.clustering import cluster_heads
from diffmech.mechanisms.complexity import circuit_complexity
from diffmech.mechanisms.entropy import attention_entropy
from diffmech.mechanisms.factorial import entropy_factorial
from diffmech.mechanisms.features import head_features
from diffmech.mechanisms.labels import label_mechanisms
from diffmech.mechanisms.phases import find_phases
from diffmech.mechanisms.seen_divergence import seen_divergence
from diffmech.models.heldout import heldout_loss
from diffmech.models.importing import import_denoiser
from diffmech.models.sampling import generate_gallery
from diffmech.models.seen import seen_images
from diffmech.report.heads.artifacts import ReportInputs
from diffmech.report.heads.charts import every_chart
from diffmech.report.heads.draw import draw_charts
from diffmech.report.heads.page import write_report
from diffmech.resampling.effects import resampling_effects
from diffmech.resampling.images import resample_images
from diffmech.workflow.study import GENERATED, Study


def run_study(study: Study, folder: Path) -> Path:
    """Run `study`, whose data sets are prompts, in `folder` and return its report."""
    config, runtime, model, heads = study.config, study.config.runtime, study.model, Heads(study)
    model_json = folder / f"results/models/{model}/model.json"
    import_denoiser(config.model, model_json, root=study.root, images=config.images)

    def named(pattern: str, **names: str) -> Path:
        return folder / pattern.format(model=model, **names)

    for dataset in study.datasets:
        prompts = config.datasets[dataset]
        assert isinstance(prompts, Prompts)
        for shard, ids in study.shards.items():
            generate_images(
                model_json,
                named(GENERATED, dataset=dataset, shard=shard),
                prompts=prompts,
                sampling=config.sampling,
                size=config.images.size,
                sample_ids=ids,
                runtime=runtime,
            )
            for block, timesteps in heads.blocks.items():
                generated_latents(
                    named(GENERATED, dataset=dataset, shard=shard),
                    model_json,
                    latents := named(LATENTS, dataset=dataset, block=block, shard=shard),
                    dataset=dataset,
                    domain=study.domain_of(dataset),
                    timesteps=timesteps,
                    among=config.capture.timesteps,
                    sample_ids=ids,
                    latents=config.latents,
                )
                capture_attention(
                    latents,
                    model_json,
                    named(ATTENTION, dataset=dataset, block=block, shard=shard),
                    capture=config.capture,
                    runtime=runtime,
                )
        capture_untrained(
            [folder / path for path in heads.latents(dataset, samples=config.untrained.samples)],
            model_json,
            folder / f"results/untrained/{model}/{dataset}.zarr.zip",
            untrained=config.untrained,
            runtime=runtime,
        )
        prepare_dataset(
            prompts,
            config.images,
            folder / f"results/datasets/{dataset}.zarr.zip",
            name=dataset,
            runtime=runtime,
            generated=[folder / path for path in study.generated(dataset)],
        )
    return _analyse(heads, folder, model_json)


def _analyse(heads: Heads, folder: Path, model_json: Path) -> Path:
    study = heads.study
    config, runtime, results = study.config, study.config.runtime, folder / "results"
    by_domain = {
        "attention": {d: [folder / path for path in heads.attention(name)] for d, name in study.domains.items()},
        "latents": {d: [folder / path for path in heads.latents(name)] for d, name in study.domains.items()},
    }
    datasets = {d: results / f"datasets/{name}.zarr.zip" for d, name in study.domains.items()}
    untrained = {d: results / f"untrained/{study.model}/{name}.zarr.zip" for d, name in study.domains.items()}
    tables = {name: results / f"{name}.csv" for name in reported()}
    others = {
        "comparison": results / "datasets/comparison.json",
        "model": model_json,
        "gallery": results / "gallery.zarr.zip",
        "resampled": results / "resampled.zarr.zip",
        "references": study.root / "resources/references.yaml",
    }
    compare_domains(datasets, others["comparison"], samples=config.capture.samples)
    seen_images(model_json, datasets, tables["seen"], samples=config.capture.samples)
    heldout_loss(model_json, datasets, tables["heldout"], tables["denoising"], timesteps=[], samples=1, runtime=runtime)
    generate_gallery(model_json, others["gallery"], sampling=config.sampling, runtime=runtime)
    attention = by_domain["attention"]
    attention_entropy(attention, untrained, tables["entropy"], entropy=config.entropy, seed=0)
    told = {NOTHING: attention}, {NOTHING: {domain: [path] for domain, path in untrained.items()}}
    entropy_factorial(
        *told,
        tables["divergence"],
        tables["factorial"],
        domains=list(study.domains),
        entropy=config.entropy,
        seed=0,
    )
    seen_divergence(attention, tables["seen"], tables["seen_divergence"], entropy=config.entropy, seed=0)
    features, members = results / "features.zarr.zip", results / "members.csv"
    mechanisms = config.mechanisms
    head_features(
        attention,
        by_domain["latents"],
        datasets,
        untrained,
        features,
        mechanisms=mechanisms,
        tested=config.tested_samples,
        seed=0,
    )
    find_phases(features, tables["phases"], mechanisms=mechanisms)
    cluster_heads(features, tables["phases"], members, tables["clusters"], mechanisms=mechanisms)
    label_mechanisms(features, tables["phases"], members, tables["mechanisms"], mechanisms=mechanisms)
    for block in heads.ablation_blocks:
        reference_outputs(
            {
                domain: [folder / path for path in heads.reference_latents(name, block)]
                for domain, name in study.domains.items()
            },
            model_json,
            folder / REFERENCE.format(model=study.model, block=block),
            reference_ids=config.reference_ids,
            runtime=runtime,
            timesteps=heads.ablated_in(block),
        )
    stores: dict[str, dict[str, list[Path]]] = {domain: {} for domain in study.domains}
    for domain, dataset in study.domains.items():
        for group in config.ablation.groups:
            stores[domain][group] = [folder / path for path in heads.ablations(dataset, group)]
            for block in heads.ablation_blocks:
                for shard, ids in heads.ablation_shards.items():
                    ablate_heads(
                        [folder / path for path in heads.ablation_latents(dataset, block, shard)],
                        model_json,
                        [folder / path for path in heads.ablation_references(group, block)],
                        folder
                        / ABLATION.format(model=study.model, dataset=dataset, group=group, block=block, shard=shard),
                        group=group,
                        heads_csv=tables["mechanisms"],
                        ablation=config.ablation,
                        seed=0,
                        runtime=runtime,
                        sample_ids=ids,
                        timesteps=heads.ablated_in(block),
                    )
    ablation_effects(stores, tables["effects"], ablation=config.ablation, seed=0)
    ablation_windows(stores, model_json, tables["phases"], tables["windows"], ablation=config.ablation, seed=0)
    circuits = {
        domain: folder / CIRCUIT.format(model=study.model, dataset=dataset) for domain, dataset in study.domains.items()
    }
    for domain, dataset in study.domains.items():
        beside = {name: circuits[domain].parent / f"{name}.csv" for name in ("heads", "curve", "subsets", "edges")}
        discover_circuit(
            [folder / path for path in heads.discovery_latents(dataset)],
            model_json,
            [folder / path for path in heads.discovery_references()],
            [folder / path for path in heads.ranked_by(dataset)],
            {"summary": circuits[domain], **beside},
            domain=domain,
            discovery=config.discovery,
            circuit=config.circuit,
            method=config.circuit_method,
            samples=config.discovery_samples,
            timesteps=config.discovery_timesteps,
            seed=0,
            runtime=runtime,
        )
    patched: dict[str, dict[str, Path]] = {domain: {} for domain in study.domains}
    for domain, dataset in study.domains.items():
        for source in heads.patching_sources:
            patched[domain][source] = folder / PATCHING.format(model=study.model, dataset=dataset, source=source)
            patch_data_set(
                [folder / path for path in heads.patching_latents(dataset, source)],
                model_json,
                patched[domain][source],
                source=heads.patching_sources[source],
                contrast=study.other_domain(dataset),
                patching=config.patching,
                timesteps=config.patching_timesteps,
                runtime=runtime,
            )
    patching_effects(
        patched,
        tables["phases"],
        tables["patching"],
        tables["doses"],
        patching=config.patching,
        windows=config.patching_windows,
        seed=0,
    )
    circuit_complexity(
        *told,
        {domain: stores[domain]["heads"] for domain in study.domains},
        tables["complexity"],
        domains=list(study.domains),
        complexity=config.complexity,
        method=config.ablation.methods[0],
        seed=0,
    )
    for domain, dataset in study.domains.items():
        prompts = config.datasets[dataset]
        assert isinstance(prompts, Prompts)
        for part in range(config.resampling.parts):
            resample_images(
                model_json,
                tables["mechanisms"],
                [folder / REFERENCE.format(model=study.model, block=block) for block in heads.ablation_blocks],
                folder / RESAMPLED.format(model=study.model, domain=domain, part=part),
                domain=domain,
                part=part,
                resampling=config.resampling,
                sampling=config.sampling,
                seed=0,
                runtime=runtime,
                prompts=prompts,
                size=config.images.size,
            )
    named = named_resampled(heads)
    resampling_effects(
        {domain: [folder / path for path in named[name]] for domain, name in resampled_names(heads).items()},
        tables["resampling"],
        others["resampled"],
        judge=None,
        resampling=config.resampling,
        seed=0,
        runtime=runtime,
    )
    told = (tables[name] for name in ("mechanisms", "effects", "windows", "resampling", "account"))
    mechanism_account(*told, method=config.ablation.methods[0], alpha=config.ablation.alpha)
    inputs = ReportInputs(
        **{name: str(path) for name, path in others.items()},
        tables={name: str(path) for name, path in tables.items()},
        datasets={domain: str(path) for domain, path in datasets.items()},
        attention={domain: [str(path) for path in paths] for domain, paths in attention.items()},
        circuits={domain: str(path) for domain, path in circuits.items()},
        benchmarks=None,
    )
    draw_charts(inputs, results / "charts", ablation=config.ablation)
    write_report(
        inputs,
        [str(results / f"charts/{chart.name}.vl.json") for chart in every_chart()],
        results / "report.html",
        results / "findings.json",
        config=config,
    )
    assert len(pd.read_csv(tables["effects"]))
    return results / "report.html"
