"""Images: every data set in one form, and what still differs between the two domains."""


rule prepare_dataset:
    """Decode, crop, resize and match the images of one data set."""
    input:
        generated=lambda wildcards: study.generated(wildcards.dataset),
    output:
        "results/datasets/{dataset}.zarr.zip",
    log:
        "results/logs/prepare_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=lambda wildcards: study.settings(
            dataset=study.config.datasets[wildcards.dataset],
            images=study.config.images,
        ),
        code=study.code("prepare_dataset"),
        source=lambda wildcards: study.source_code(wildcards.dataset),
    message:
        "Preparing the images of {wildcards.dataset}"
    script:
        "../workflow_scripts/prepare_dataset.py"


rule image_groups:
    """Note which images of one data set belong together: the unit of all statistics, which no capture depends on."""
    input:
        dataset="results/{folder}/{dataset}.zarr.zip",
        table=lambda wildcards: study.group_table(wildcards.dataset),
    output:
        GROUPS,
    log:
        "results/logs/image_groups/{folder}/{dataset}.log",
    benchmark:
        "results/benchmarks/image_groups/{folder}/{dataset}.tsv"
    wildcard_constraints:
        folder="datasets",
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        dataset=lambda wildcards: study.config.datasets[wildcards.dataset].model_dump(mode="json"),
        code=study.code("image_groups"),
    message:
        "Noting which images of {wildcards.dataset} belong together"
    script:
        "../workflow_scripts/image_groups.py"


rule compare_domains:
    """Measure what still differs between the matched domains: brightness, contrast, power spectrum, attributes."""
    input:
        first=study.dataset_stores()[0],
        second=study.dataset_stores()[1],
    output:
        "results/datasets/comparison.json",
    log:
        "results/logs/compare_domains.log",
    benchmark:
        "results/benchmarks/compare_domains.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        domains=list(study.domains),
        samples=study.config.capture.samples,
        code=study.code("compare_domains"),
    message:
        "Comparing the domains before any model sees them"
    script:
        "../workflow_scripts/compare_domains.py"
