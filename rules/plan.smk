"""What the study will take on this machine, told before anything runs."""


# Without output, and so without a benchmark, it runs whenever it is asked for.
rule plan:
    """Print bytes on disk, memory and time of the captures, by what they keep, and of what comes beside them."""
    log:
        "results/logs/plan.log",
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        config=study.config.canonical(),
        workload=lambda wildcards: heads.workload(workflow.cores),
        generated="".join(study.generated(study.datasets[0])[:1]),
        code=study.denoising_code("plan"),
    message:
        "Measuring a few passes of {study.model}"
    script:
        "../workflow_scripts/plan.py"
