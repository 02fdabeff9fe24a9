"""When a head matters, and what it carries of the difference between two inputs."""


rule windows:
    """The effects of heads per window of timesteps: of ablation, and of activation patching."""
    input:
        tables["windows"].at(model=study.model),
        tables["patching"].at(model=study.model),
        tables["doses"].at(model=study.model),


rule ablation_windows:
    """Turn ablations into effects per window of timesteps; nothing is run again."""
    input:
        **heads.named_ablations(),
        phases=heads.phases(study.config.ablation.windows),
        model="results/models/{model}/model.json",
        groups=study.groups(),
        settled=settled_groups,
    output:
        tables["windows"].path,
    log:
        "results/logs/ablation_windows/{model}.log",
    benchmark:
        "results/benchmarks/ablation_windows/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(
            ablation=[
                "methods",
                "windows",
                "draws",
                "permutations",
                "confidence",
                "alpha",
            ]
        ),
        names=heads.ablation_names(),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("ablation_windows"),
    message:
        "Testing the ablation effects in {wildcards.model} per window of timesteps"
    script:
        "../workflow_scripts/ablation_windows.py"


rule patch_heads:
    """Patch every head between the passes of one data set and their counterfactuals."""
    input:
        latents=lambda wildcards: heads.patching_latents(wildcards.dataset, wildcards.source),
        model="results/models/{model}/model.json",
        settled=settled_groups,
    output:
        PATCHING,
    log:
        "results/logs/patch_heads/{model}/{dataset}/{source}.log",
    benchmark:
        "results/benchmarks/patch_heads/{model}/{dataset}/{source}.tsv"
    wildcard_constraints:
        source=either(list(heads.patching_sources)),
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(
            patching=[
                "groups",
                "heads",
                "samples",
                "doses",
                "dose_targets",
                "directions",
            ]
        ),
        source=lambda wildcards: heads.patching_sources[wildcards.source],
        contrast=lambda wildcards: study.other_domain(wildcards.dataset),
        timesteps=study.config.patching_timesteps,
        code=study.denoising_code("patch_heads"),
    message:
        "Patching the heads of {wildcards.model} on {wildcards.dataset}, from {wildcards.source}"
    script:
        "../workflow_scripts/patch_heads.py"


rule patching_effects:
    """Turn patched passes into shares of the difference per window and dose, with intervals, nulls and controls."""
    input:
        **heads.named_patching(),
        phases=heads.phases(heads.patching_windows),
        groups=study.groups(),
        settled=settled_groups,
    output:
        effects=tables["patching"].path,
        doses=tables["doses"].path,
    log:
        "results/logs/patching_effects/{model}.log",
    benchmark:
        "results/benchmarks/patching_effects/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(patching=["draws", "permutations", "confidence", "alpha"]),
        windows=heads.patching_windows,
        names=heads.patching_names(),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("patching_effects"),
    message:
        "Testing what heads carry in {wildcards.model}"
    script:
        "../workflow_scripts/patching_effects.py"
