"""The self-check: what the whole analysis found of a denoiser whose heads were built by hand."""


rule planted:
    """What was found of the planted heads, and precision and recall of it."""
    input:
        tables["recovery"].at(model=study.model),
        tables["pairs"].at(model=study.model),
        tables["planted_summary"].at(model=study.model),


rule planted_recovery:
    """Compare labels and effects with what was planted, and ablate every pair of heads to find the redundant one."""
    input:
        **{f"latents_{domain}": heads.paired_latents(domain) for domain in study.domains},
        model="results/models/{model}/model.json",
        heads=tables["mechanisms"].path,
        effects=tables["effects"].path,
        reference=[REFERENCE.format(model=study.model, block=block) for block in heads.ablation_blocks],
        settled=settled_groups,
    output:
        heads=tables["recovery"].path,
        pairs=tables["pairs"].path,
        summary=tables["planted_summary"].path,
    log:
        "results/logs/planted_recovery/{model}.log",
    benchmark:
        "results/benchmarks/planted_recovery/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(
            ablation=["methods", "window", "timesteps", "permutations", "alpha", "samples"],
            untrained=study.config.untrained,
        ),
        symmetric=heads.symmetric_domains(),
        seed=study.seed,
        code=study.denoising_code("planted_recovery"),
    message:
        "Comparing what was found in {wildcards.model} with what was planted"
    script:
        "../workflow_scripts/planted_recovery.py"
