"""What every head does on every pass: exact statistics, and maps or factors of the first images."""

from diffmech.heads.tellings import TOLD, TOLD_COPIES, lending_latents, told_files, told_latents, told_names


rule attention:
    """All attention stores, of the denoiser and of its untrained twins."""
    input:
        heads.all_attention(),
        heads.untrained(),


rule capture_attention:
    """Observe every attention head on the latents of one block and shard."""
    input:
        latents=LATENTS,
        model="results/models/{model}/model.json",
        settled=settled_own,
    output:
        ATTENTION,
    log:
        "results/logs/capture_attention/{model}/{dataset}/{block}/{shard}.log",
    benchmark:
        "results/benchmarks/capture_attention/{model}/{dataset}/{block}/{shard}.tsv"
    group:
        batch
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(capture=["shard_size", "keep_maps", "keep_factors", "maps_of", "factors_of"]),
        code=study.denoising_code("capture_attention"),
    message:
        "Observing {wildcards.model} on {wildcards.dataset}, {wildcards.shard}, {wildcards.block}"
    script:
        "../workflow_scripts/capture_attention.py"


rule capture_untrained:
    """Observe the same architecture with random weights, several times: the null of every claim about training."""
    input:
        latents=lambda wildcards: heads.latents(wildcards.dataset, samples=study.config.untrained.samples),
        model="results/models/{model}/model.json",
        settled=settled_own,
    output:
        "results/untrained/{model}/{dataset}.zarr.zip",
    log:
        "results/logs/capture_untrained/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/capture_untrained/{model}/{dataset}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(untrained=study.config.untrained),
        code=study.denoising_code("capture_untrained"),
    message:
        "Observing untrained twins of {wildcards.model} on {wildcards.dataset}"
    script:
        "../workflow_scripts/capture_untrained.py"


rule capture_told:
    """Observe images that are told to be of either domain, and nothing, with untrained twins: statistics only."""
    input:
        own=lambda wildcards: told_latents(heads, wildcards.dataset),
        other=lambda wildcards: lending_latents(heads, wildcards.dataset),
        model="results/models/{model}/model.json",
        settled=settled,
    output:
        cells=told_files(heads, TOLD),
        copies=told_files(heads, TOLD_COPIES),
    log:
        "results/logs/capture_told/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/capture_told/{model}/{dataset}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(told=["samples", "untrained_samples", "untrained_told"], untrained=["seeds"]),
        told=told_names(heads),
        timesteps=study.config.told_timesteps,
        domain=lambda wildcards: study.domain_of(wildcards.dataset),
        other=lambda wildcards: study.other_domain(wildcards.dataset),
        code=study.denoising_code("capture_told"),
    message:
        "Telling {wildcards.model} what images of {wildcards.dataset} are, and are not"
    script:
        "../workflow_scripts/capture_told.py"
