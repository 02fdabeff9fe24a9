"""What edits do inside: the entropy of attention before and after."""

from diffmech.concepts.paths import INSIDE


rule edited_attention:
    """Watch the attention of a denoiser with and without an edit, on the same noisy images."""
    input:
        model="results/models/{model}/model.json",
        mask=MASK,
        settled=settled_weights,
    output:
        INSIDE,
    log:
        "results/logs/edited_attention/{model}/{concept}/{objective}/{dose}.log",
    benchmark:
        "results/benchmarks/edited_attention/{model}/{concept}/{objective}/{dose}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.inside_settings(wildcards.concept),
        code=study.denoising_code("edited_attention"),
    message:
        "Watching attention in {wildcards.model}: {wildcards.objective} {wildcards.concept}, {wildcards.dose}"
    script:
        "../workflow_scripts/edited_attention.py"


rule concept_attention:
    """Tabulate what edits do to the entropy of attention."""
    input:
        stores=concepts.inside(),
        settled=settled_weights,
    output:
        tables["concept_attention"].path,
    log:
        "results/logs/concept_attention/{model}.log",
    benchmark:
        "results/benchmarks/concept_attention/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=concepts.effects_settings(),
        seed=study.seed,
        code=study.code("concept_attention"),
    message:
        "Measuring what edits do to attention in {wildcards.model}"
    script:
        "../workflow_scripts/concept_attention.py"
