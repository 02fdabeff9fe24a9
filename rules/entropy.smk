"""Attention entropy per head, timestep and domain, and how far the domains diverge."""

from diffmech.heads.tellings import named_cells


rule entropy:
    """The entropy tables."""
    input:
        tables["entropy"].at(model=study.model),
        tables["divergence"].at(model=study.model),
        tables["factorial"].at(model=study.model),


rule attention_entropy:
    """Tabulate entropy with its interval, its bound and its untrained null."""
    input:
        first=heads.attention(study.datasets[0]),
        second=heads.attention(study.datasets[1]),
        untrained=heads.untrained(),
        groups=study.groups(),
        settled=settled_groups,
    output:
        tables["entropy"].path,
    log:
        "results/logs/attention_entropy/{model}.log",
    benchmark:
        "results/benchmarks/attention_entropy/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=study.settings(entropy=study.config.entropy),
        domains=list(study.domains),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("attention_entropy"),
    message:
        "Tabulating the attention entropy of {wildcards.model}"
    script:
        "../workflow_scripts/attention_entropy.py"


rule entropy_divergence:
    """Test what the images and what the denoiser is told of them do to attention, each by itself."""
    input:
        **named_cells(heads),
        groups=study.groups(),
        settled=settled_groups,
    output:
        divergence=tables["divergence"].path,
        factorial=tables["factorial"].path,
    log:
        "results/logs/entropy_divergence/{model}.log",
    benchmark:
        "results/benchmarks/entropy_divergence/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=study.settings(entropy=study.config.entropy),
        domains=list(study.domains),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("entropy_divergence"),
    message:
        "Testing what images and telling do to attention in {wildcards.model}"
    script:
        "../workflow_scripts/entropy_divergence.py"


rule seen_divergence:
    """Test per timestep whether the heads tell images that were trained on from those that were not."""
    input:
        first=heads.attention(study.datasets[0]),
        second=heads.attention(study.datasets[1]),
        seen=tables["seen"].path,
        settled=settled_groups,
    output:
        tables["seen_divergence"].path,
    log:
        "results/logs/seen_divergence/{model}.log",
    benchmark:
        "results/benchmarks/seen_divergence/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=study.settings(entropy=study.config.entropy),
        domains=list(study.domains),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("seen_divergence"),
    message:
        "Comparing seen and unseen images in {wildcards.model}"
    script:
        "../workflow_scripts/seen_divergence.py"
