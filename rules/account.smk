"""What each mechanism does: whether it is causal, when, and for which attributes."""


rule account:
    """The causal account of every mechanism."""
    input:
        f"results/account/{study.model}.csv",


rule mechanism_account:
    """Put together what ablation, its windows and resampled images show of each mechanism."""
    input:
        heads="results/mechanisms/{model}/heads.csv",
        effects="results/ablation/{model}/effects.csv",
        windows="results/ablation/{model}/windows.csv",
        resampling="results/resampling/{model}/effects.csv",
        settled=settled_groups,
    output:
        "results/account/{model}.csv",
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
