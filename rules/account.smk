"""What each mechanism does: whether it is causal, when, and for which attributes."""


rule account:
    """The causal account of every mechanism."""
    input:
        tables["account"].at(model=study.model),


rule mechanism_account:
    """Put together what ablation, its windows and resampled images show of each mechanism."""
    input:
        heads=tables["mechanisms"].path,
        effects=tables["effects"].path,
        windows=tables["windows"].path,
        resampling=tables["resampling"].path,
        settled=settled_groups,
    output:
        tables["account"].path,
    log:
        "results/logs/mechanism_account/{model}.log",
    benchmark:
        "results/benchmarks/mechanism_account/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        method=study.config.ablation.methods[0],
        alpha=study.config.ablation.alpha,
        code=study.code("mechanism_account"),
    message:
        "Giving an account of the mechanisms of {wildcards.model}"
    script:
        "../workflow_scripts/mechanism_account.py"
