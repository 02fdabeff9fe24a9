"""Noised images, shared by capture and ablation."""


rule make_latents:
    """Noise the images of one shard to the timesteps of one block."""
    input:
        dataset="results/datasets/{dataset}.zarr.zip",
        model="results/models/{model}/model.json",
    output:
        LATENTS,
    log:
        "results/logs/make_latents/{model}/{dataset}/{block}/{shard}.log",
    benchmark:
        "results/benchmarks/make_latents/{model}/{dataset}/{block}/{shard}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(latents=study.config.latents),
        timesteps=lambda wildcards: study.blocks[wildcards.block],
        sample_ids=lambda wildcards: study.shards[wildcards.shard],
        domain=lambda wildcards: study.domain_of(wildcards.dataset),
        code=study.code("make_latents"),
    message:
        "Noising {wildcards.dataset}, {wildcards.shard}, to {wildcards.block}"
    script:
        "../workflow_scripts/make_latents.py"
