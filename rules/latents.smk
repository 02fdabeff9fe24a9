"""Noised images, shared by capture and ablation."""


rule generate_images:
    """Generate the images of one shard of prompts, and keep all that the denoiser was given meanwhile."""
    input:
        prompts=lambda wildcards: study.prompt_file(wildcards.dataset),
        model="results/models/{model}/model.json",
        settled=settled_weights,
    output:
        GENERATED,
    log:
        "results/logs/generate_images/{model}/{dataset}/{shard}.log",
    benchmark:
        "results/benchmarks/generate_images/{model}/{dataset}/{shard}.tsv"
    wildcard_constraints:
        dataset=either(study.prompted),
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=8000,
    params:
        settings=lambda wildcards: study.settings(
            dataset=study.config.datasets[wildcards.dataset],
            sampling=["scheduler", "steps", "guidance"],
            images=["size"],
        ),
        sample_ids=lambda wildcards: study.shards[wildcards.shard],
        code=study.denoising_code("generate_images"),
    message:
        "Generating {wildcards.dataset}, {wildcards.shard}, with {wildcards.model}"
    script:
        "../workflow_scripts/generate_images.py"


rule generated_latents:
    """Take the latents of one block from what was generated: steps of the trajectory, or noised anew."""
    input:
        generated=GENERATED,
        model="results/models/{model}/model.json",
    output:
        LATENTS,
    log:
        "results/logs/generated_latents/{model}/{dataset}/{block}/{shard}.log",
    benchmark:
        "results/benchmarks/generated_latents/{model}/{dataset}/{block}/{shard}.tsv"
    wildcard_constraints:
        dataset=either(study.prompted),
    priority: 1  # before the captures of the same job, so that all find a loaded denoiser
    group:
        batch
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=study.settings(latents=study.config.latents),
        timesteps=lambda wildcards: heads.blocks[wildcards.block],
        among=study.config.capture.timesteps,
        sample_ids=lambda wildcards: study.shards[wildcards.shard],
        domain=lambda wildcards: study.domain_of(wildcards.dataset),
        code=study.code("generated_latents"),
    message:
        "Taking latents of {wildcards.dataset}, {wildcards.shard}, at {wildcards.block}"
    script:
        "../workflow_scripts/generated_latents.py"


rule make_latents:
    """Noise the images of one shard to the timesteps of one block."""
    input:
        dataset=lambda wildcards: by_content(study.studied_store(wildcards.dataset)),
        digests=lambda wildcards: study.digests([study.studied_store(wildcards.dataset)]),
        model="results/models/{model}/model.json",
        settled=settled_own,
    output:
        LATENTS,
    log:
        "results/logs/make_latents/{model}/{dataset}/{block}/{shard}.log",
    benchmark:
        "results/benchmarks/make_latents/{model}/{dataset}/{block}/{shard}.tsv"
    wildcard_constraints:
        dataset=either(study.collected),
    priority: 1  # before the captures of the same job, so that all find a loaded denoiser
    group:
        batch
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(latents=study.config.latents),
        timesteps=lambda wildcards: heads.blocks[wildcards.block],
        sample_ids=lambda wildcards: study.shards[wildcards.shard],
        domain=lambda wildcards: study.domain_of(wildcards.dataset),
        code=study.code("make_latents"),
    message:
        "Noising {wildcards.dataset}, {wildcards.shard}, to {wildcards.block}"
    script:
        "../workflow_scripts/make_latents.py"
