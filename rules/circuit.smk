"""Which heads carry the computation: their effects from gradients, held against exact ablation."""


rule circuit:
    """The estimated effects of all heads."""
    input:
        f"results/circuit/{study.model}/attribution.csv",


rule attribution_patching:
    """Estimate the effect of ablating every head from gradients, and correlate it with exact ablation."""
    input:
        latents_first=study.circuit_latents(study.datasets[0]),
        latents_second=study.circuit_latents(study.datasets[1]),
        model="results/models/{model}/model.json",
        reference=[REFERENCE.format(model=study.model, block=block) for block in study.ablation_blocks],
        ablation_first=study.ablations(study.datasets[0], "heads"),
        ablation_second=study.ablations(study.datasets[1], "heads"),
    output:
        table="results/circuit/{model}/attribution.csv",
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
        code=study.denoising_code("attribution_patching"),
    message:
        "Attributing the loss to the heads of {wildcards.model}"
    script:
        "../workflow_scripts/attribution_patching.py"
