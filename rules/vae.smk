"""Variational autoencoders: what their latents and units do, and how well factors are told apart in them."""

from diffmech.vae import paths as vae_paths
from diffmech.vae.tables import TABULATED

vaes = vae_paths.Vaes(study)
vae_tables = {table.name: table.path for table in TABULATED}


if not IS_MODULE:

    localrules:
        vae,


wildcard_constraints:
    data=either(vaes.names),
    family=either(vaes.families),
    vae_seed=either(vaes.seeds),
    factor=either(vaes.factors),


rule vae:
    """The page on VAEs."""
    input:
        vaes.page,


rule train_vae:
    """Train one VAE; a killed training resumes from its last checkpoint."""
    input:
        files=lambda wildcards: vaes.files(wildcards.data),
    output:
        record=vae_paths.RECORD,
        weights=vae_paths.WEIGHTS,
    log:
        "results/logs/train_vae/{data}/{family}/{vae_seed}.log",
    benchmark:
        "results/benchmarks/train_vae/{data}/{family}/{vae_seed}.tsv"
    priority: 1
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=lambda wildcards: vaes.training_settings(wildcards.data, wildcards.family, wildcards.vae_seed),
        checkpoints=lambda wildcards: vaes.checkpoints(wildcards.data, wildcards.family, wildcards.vae_seed),
        code=lambda wildcards: vaes.code("train_vae", wildcards.data),
    message:
        "Training {wildcards.family} on {wildcards.data}, seed {wildcards.vae_seed}"
    script:
        "../workflow_scripts/train_vae.py"


rule vae_codes:
    """Encode images, and set single latents of them: shift, clamp, swap."""
    input:
        record=vae_paths.RECORD,
        weights=vae_paths.WEIGHTS,
        files=lambda wildcards: vaes.files(wildcards.data),
    output:
        vae_paths.CODES,
    log:
        "results/logs/vae_codes/{data}/{family}/{vae_seed}.log",
    benchmark:
        "results/benchmarks/vae_codes/{data}/{family}/{vae_seed}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=lambda wildcards: vaes.coding_settings(wildcards.data),
        code=lambda wildcards: vaes.code("vae_codes", wildcards.data),
    message:
        "Setting latents of {wildcards.family} on {wildcards.data}, seed {wildcards.vae_seed}"
    script:
        "../workflow_scripts/vae_codes.py"


rule vae_factor:
    """Change one factor of images: what the latents do, which units carry it, and what goes through them."""
    input:
        record=vae_paths.RECORD,
        weights=vae_paths.WEIGHTS,
        codes=vae_paths.CODES,
        files=lambda wildcards: vaes.files(wildcards.data),
    output:
        vae_paths.OF_A_FACTOR,
    log:
        "results/logs/vae_factor/{data}/{family}/{vae_seed}/{factor}.log",
    benchmark:
        "results/benchmarks/vae_factor/{data}/{family}/{vae_seed}/{factor}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=lambda wildcards: vaes.changing_settings(wildcards.data),
        code=lambda wildcards: vaes.code("vae_factor", wildcards.data),
    message:
        "Changing {wildcards.factor} for {wildcards.family} on {wildcards.data}, seed {wildcards.vae_seed}"
    script:
        "../workflow_scripts/vae_factor.py"


rule vae_disentanglement:
    """Score how well factors are told apart in the latents of one VAE, and read their causal graph from them."""
    input:
        record=vae_paths.RECORD,
        weights=vae_paths.WEIGHTS,
        codes=vae_paths.CODES,
        files=lambda wildcards: vaes.files(wildcards.data),
    output:
        scores=tables["vae_scores"].path,
        edges=tables["vae_edges"].path,
    log:
        "results/logs/vae_disentanglement/{data}/{family}/{vae_seed}.log",
    benchmark:
        "results/benchmarks/vae_disentanglement/{data}/{family}/{vae_seed}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        mem_mb=2000,
    params:
        settings=lambda wildcards: vaes.scoring_settings(wildcards.data),
        code=lambda wildcards: vaes.code("vae_disentanglement", wildcards.data),
    message:
        "Scoring {wildcards.family} on {wildcards.data}, seed {wildcards.vae_seed}"
    script:
        "../workflow_scripts/vae_disentanglement.py"


rule vae_tables:
    """Tabulate what was found in all VAEs of a data set, and hold families against each other."""
    input:
        records=lambda wildcards: vaes.records(wildcards.data),
        codes=lambda wildcards: vaes.codes(wildcards.data),
        factors=lambda wildcards: vaes.of_factors(wildcards.data),
        scores=lambda wildcards: vaes.scores(wildcards.data),
        edges=lambda wildcards: vaes.edges(wildcards.data),
    output:
        **vae_tables,
    log:
        "results/logs/vae_tables/{data}.log",
    benchmark:
        "results/benchmarks/vae_tables/{data}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=lambda wildcards: vaes.table_settings(wildcards.data),
        code=study.code("vae_tables"),
    message:
        "Tabulating the VAEs on {wildcards.data}"
    script:
        "../workflow_scripts/vae_tables.py"


rule vae_page:
    """Write the page on VAEs."""
    input:
        **{
            f"{data}__{name.removeprefix('vae_')}": path.format(data=data)
            for data in vaes.names
            for name, path in vae_tables.items()
        },
        **{f"{data}__scores": vaes.scores(data) for data in vaes.names},
        **{f"{data}__edges": vaes.edges(data) for data in vaes.names},
        **{f"{data}__codes": vaes.codes(data) for data in vaes.names},
        references=shipped("references-vae.yaml"),
    output:
        page=vaes.page,
        findings=vaes.findings,
        picture=vaes.picture,
    log:
        "results/logs/vae_page.log",
    benchmark:
        "results/benchmarks/vae_page.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(vae=vaes.section),
        code=study.code("vae_page"),
    message:
        "Writing the page on VAEs"
    script:
        "../workflow_scripts/vae_page.py"
