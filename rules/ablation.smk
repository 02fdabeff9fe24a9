"""Whether a head matters: replace its output and measure what denoising loses."""

from diffmech.heads.tellings import named_cells


rule ablation:
    """The ablation effects with their intervals and matched controls."""
    input:
        tables["effects"].at(model=study.model),
        tables["complexity"].at(model=study.model),


# A checkpoint, since only this stops other groups that leave the reference images as they were from repeating all
# ablations; without groups they are known beforehand. It asks for nothing itself, as `image_groups`.
checkpoint choose_references:
    """Choose reference images of groups that are not studied, where it is known which images belong together."""
    input:
        groups=study.groups(),
    output:
        CHOSEN,
    log:
        "results/logs/choose_references/{model}.log",
    benchmark:
        "results/benchmarks/choose_references/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        among=heads.among_references,
        domains=list(study.domains),
        grouped=study.grouped,
        code=study.code("choose_references"),
    message:
        "Choosing the reference images of {wildcards.model}"
    script:
        "../workflow_scripts/choose_references.py"


rule reference_outputs:
    """Keep the clean head outputs of reference images: what mean and resample ablation put in place."""
    input:
        first=lambda wildcards: heads.reference_latents(
            study.datasets[0], wildcards.block, chosen_references(wildcards)
        ),
        second=lambda wildcards: heads.reference_latents(
            study.datasets[1], wildcards.block, chosen_references(wildcards)
        ),
        chosen=lambda wildcards: chosen_references(wildcards) or [],
        model="results/models/{model}/model.json",
        settled=settled_groups,
    output:
        REFERENCE,
    log:
        "results/logs/reference_outputs/{model}/{block}.log",
    benchmark:
        "results/benchmarks/reference_outputs/{model}/{block}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        reference_ids=study.config.reference_ids,
        timesteps=lambda wildcards: heads.ablated_in(wildcards.block),
        domains=list(study.domains),
        code=study.denoising_code("reference_outputs"),
    message:
        "Keeping reference outputs of {wildcards.model}, {wildcards.block}"
    script:
        "../workflow_scripts/reference_outputs.py"


rule ablate_heads:
    """Ablate heads, layers or mechanisms on one shard of latents."""
    input:
        latents=lambda wildcards: heads.ablation_latents(wildcards.dataset, wildcards.block, wildcards.shard),
        model="results/models/{model}/model.json",
        reference=lambda wildcards: once_chosen(wildcards, heads.ablation_references(wildcards.group, wildcards.block)),
        heads=lambda wildcards: (
            checkpoints.label_mechanisms.get(model=wildcards.model).output[0]
            if wildcards.group == "mechanisms"
            else []
        ),
        settled=settled_groups,
    output:
        ABLATION,
    log:
        "results/logs/ablate_heads/{model}/{dataset}/{group}/{block}/{shard}.log",
    benchmark:
        "results/benchmarks/ablate_heads/{model}/{dataset}/{group}/{block}/{shard}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: heads.ablation_settings(wildcards.group),
        sample_ids=lambda wildcards: heads.ablation_shards[wildcards.shard],
        timesteps=lambda wildcards: heads.ablated_in(wildcards.block),
        seed=study.seed,
        code=study.denoising_code("ablate_heads"),
    message:
        "Ablating {wildcards.group} of {wildcards.model} on {wildcards.dataset}, {wildcards.shard}, {wildcards.block}"
    script:
        "../workflow_scripts/ablate_heads.py"


rule ablation_effects:
    """Turn ablations into effects with intervals, matched controls and corrected p-values."""
    input:
        **heads.named_ablations(),
        groups=study.groups(),
        settled=settled_groups,
    output:
        tables["effects"].path,
    log:
        "results/logs/ablation_effects/{model}.log",
    benchmark:
        "results/benchmarks/ablation_effects/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(ablation=["methods", "draws", "permutations", "confidence", "alpha"]),
        names=heads.ablation_names(),
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("ablation_effects"),
    message:
        "Testing the ablation effects in {wildcards.model}"
    script:
        "../workflow_scripts/ablation_effects.py"


rule circuit_complexity:
    """Compare how many heads, keys and activation dimensions each domain uses."""
    input:
        **named_cells(heads),
        ablation_first=heads.ablations(study.datasets[0], "heads"),
        ablation_second=heads.ablations(study.datasets[1], "heads"),
        groups=study.groups(),
        settled=settled_groups,
    output:
        tables["complexity"].path,
    log:
        "results/logs/circuit_complexity/{model}.log",
    benchmark:
        "results/benchmarks/circuit_complexity/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=study.settings(complexity=study.config.complexity),
        domains=list(study.domains),
        method=study.config.ablation.methods[0],
        seed=study.seed,
        grouped=study.grouped,
        code=study.code("circuit_complexity"),
    message:
        "Measuring the circuit complexity of {wildcards.model}"
    script:
        "../workflow_scripts/circuit_complexity.py"
