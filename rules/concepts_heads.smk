"""In which attention heads weights carry concepts, and whether these are the heads that matter."""


rule concept_heads:
    """Sum the scores of each head's weights, and hold those of the highest against the heads found causal."""
    input:
        model=f"results/models/{study.model}/model.json",
        gradients=concepts.all_gradients(),
        effects=tables["effects"].at(model=study.model) if concepts.section.heads.overlap else [],
        settled=settled_weights,
    output:
        heads=tables["concept_heads"].path,
        overlap=tables["concept_overlap"].path,
    log:
        "results/logs/concept_heads/{model}.log",
    benchmark:
        "results/benchmarks/concept_heads/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=concepts.heads_settings(),
        seed=study.seed,
        code=study.code("concept_heads"),
    message:
        "Summing the scores of the heads of {wildcards.model}"
    script:
        "../workflow_scripts/concept_heads.py"
