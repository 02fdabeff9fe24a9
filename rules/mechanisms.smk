"""Heads that behave alike, what they respond to, and in which phase of denoising."""


rule mechanisms:
    """The table of heads with their mechanisms."""
    input:
        tables["mechanisms"].at(model=study.model),


rule head_features:
    """Describe every head at every timestep: reach, focus, content dependence, and what it attends to."""
    input:
        attention_first=heads.attention(study.datasets[0]),
        attention_second=heads.attention(study.datasets[1]),
        latents_first=heads.latents(study.datasets[0]),
        latents_second=heads.latents(study.datasets[1]),
        datasets=[by_content(store) for store in study.studied_stores()],
        digests=study.digests(study.studied_stores()),
        untrained=heads.untrained(),
        groups=study.groups(),
        settled=settled_groups,
    output:
        "results/mechanisms/{model}/features.zarr.zip",
    log:
        "results/logs/head_features/{model}.log",
    benchmark:
        "results/benchmarks/head_features/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=study.settings(mechanisms=["probes", "rolls", "stability_draws", "seed"]),
        domains=list(study.domains),
        tested=study.config.tested_samples,
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("head_features"),
    message:
        "Describing the heads of {wildcards.model}"
    script:
        "../workflow_scripts/head_features.py"


rule find_phases:
    """Cut the timesteps into phases within which the heads behave alike."""
    input:
        "results/mechanisms/{model}/features.zarr.zip",
        settled=settled_groups,
    output:
        tables["phases"].path,
    log:
        "results/logs/find_phases/{model}.log",
    benchmark:
        "results/benchmarks/find_phases/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(mechanisms=["phases", "stability_draws", "seed"]),
        code=study.code("find_phases"),
    message:
        "Finding the phases of {wildcards.model}"
    script:
        "../workflow_scripts/find_phases.py"


rule cluster_heads:
    """Cluster heads by what they do in each phase, and measure how stable the clusters are."""
    input:
        features="results/mechanisms/{model}/features.zarr.zip",
        phases=tables["phases"].path,
        settled=settled_groups,
    output:
        members=tables["members"].path,
        quality=tables["clusters"].path,
    log:
        "results/logs/cluster_heads/{model}.log",
    benchmark:
        "results/benchmarks/cluster_heads/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(
            mechanisms=[
                "clusters",
                "cross_clusters",
                "cluster_range",
                "stability_draws",
                "seed",
            ]
        ),
        code=study.code("cluster_heads"),
    message:
        "Clustering the heads of {wildcards.model}"
    script:
        "../workflow_scripts/cluster_heads.py"


# A checkpoint, since only this stops a rerun that leaves heads.csv as it was from repeating the ablations behind it.
checkpoint label_mechanisms:
    """Name each cluster after its strongest probe, where that beats its nulls; otherwise leave it unassigned."""
    input:
        features="results/mechanisms/{model}/features.zarr.zip",
        phases=tables["phases"].path,
        members=tables["members"].path,
        settled=settled_groups,
    output:
        tables["mechanisms"].path,
    log:
        "results/logs/label_mechanisms/{model}.log",
    benchmark:
        "results/benchmarks/label_mechanisms/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(mechanisms=study.config.mechanisms),
        seed=study.seed,
        code=study.code("label_mechanisms"),
    message:
        "Labelling the mechanisms of {wildcards.model}"
    script:
        "../workflow_scripts/label_mechanisms.py"
