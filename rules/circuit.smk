"""Which heads carry the computation: their effects from gradients, and the circuit that they form."""


rule circuit:
    """The estimated effects of all heads, and the circuit of each domain."""
    input:
        tables["attribution"].at(model=study.model),
        heads.circuits(),


rule attribution_patching:
    """Estimate the effect of ablating every head from gradients, and correlate it with exact ablation."""
    input:
        latents_first=heads.circuit_latents(study.datasets[0]),
        latents_second=heads.circuit_latents(study.datasets[1]),
        model="results/models/{model}/model.json",
        reference=[REFERENCE.format(model=study.model, block=block) for block in heads.ablation_blocks],
        ablation_first=heads.ablations(study.datasets[0], "heads"),
        ablation_second=heads.ablations(study.datasets[1], "heads"),
        groups=study.groups(),
        settled=settled_groups,
    output:
        table=tables["attribution"].path,
        agreement="results/circuit/{model}/attribution.json",
    log:
        "results/logs/attribution_patching/{model}.log",
    benchmark:
        "results/benchmarks/attribution_patching/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(circuit=study.config.circuit),
        method=study.config.circuit_method,
        samples=study.config.circuit_samples,
        timesteps=study.config.ablation_timesteps,
        domains=list(study.domains),
        seed=study.seed,
        grouped=study.grouped,
        code=study.denoising_code("attribution_patching"),
    message:
        "Attributing the loss to the heads of {wildcards.model}"
    script:
        "../workflow_scripts/attribution_patching.py"


rule discover_circuit:
    """Find the fewest heads that bring what all heads contribute to one domain, and test them on images unseen."""
    input:
        latents=lambda wildcards: heads.discovery_latents(wildcards.dataset),
        model="results/models/{model}/model.json",
        reference=heads.discovery_references(),
        ablations=lambda wildcards: heads.ranked_by(wildcards.dataset),
        groups=lambda wildcards: study.groups(wildcards.dataset),
        settled=settled_groups,
    output:
        summary=CIRCUIT,
        heads=tables["circuit_heads"].path,
        curve=tables["circuit_curve"].path,
        subsets=tables["circuit_subsets"].path,
        edges=tables["circuit_edges"].path,
    log:
        "results/logs/discover_circuit/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/discover_circuit/{model}/{dataset}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(discovery=study.config.discovery, circuit=["steps", "path"]),
        domain=lambda wildcards: study.domain_of(wildcards.dataset),
        grouped=lambda wildcards: [study.domain_of(wildcards.dataset)] if study.groups(wildcards.dataset) else [],
        method=study.config.circuit_method,
        samples=study.config.discovery_samples,
        timesteps=study.config.discovery_timesteps,
        seed=study.seed,
        code=study.denoising_code("discover_circuit"),
    message:
        "Finding the circuit of {wildcards.model} on {wildcards.dataset}"
    script:
        "../workflow_scripts/discover_circuit.py"
