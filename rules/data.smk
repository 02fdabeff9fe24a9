"""Images: every data set in one form, and what still differs between the two domains."""


# A checkpoint, since only this stops a data set that was read anew, and is what it was, from repeating what lies below:
# every job there asks for it (`settled`). Its digest tells them whether it is, as its time cannot.
checkpoint prepare_dataset:
    """Decode, crop, resize and match the images of one data set."""
    input:
        generated=lambda wildcards: study.generated(wildcards.dataset),
    output:
        store="results/datasets/{dataset}.zarr.zip",
        digest="results/datasets/{dataset}.sha256",
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
        watched=lambda wildcards: study.watched(wildcards.dataset),
    message:
        "Preparing the images of {wildcards.dataset}"
    script:
        "../workflow_scripts/prepare_dataset.py"


# Of jobs that can run these two and `compare_domains` come first, so that too few images are told before anything is
# computed of them.
rule unseen_images:
    """Take the images of one data set that the denoiser was not trained on."""
    input:
        dataset=ancient("results/datasets/{dataset}.zarr.zip"),
        digest="results/datasets/{dataset}.sha256",
        model="results/models/{model}/model.json",
        settled=settled,
    output:
        UNSEEN,
    log:
        "results/logs/unseen_images/{model}/{dataset}.log",
    benchmark:
        "results/benchmarks/unseen_images/{model}/{dataset}.tsv"
    priority: 1
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=study.code("unseen_images"),
    message:
        "Taking the images of {wildcards.dataset} that {wildcards.model} never saw"
    script:
        "../workflow_scripts/unseen_images.py"


rule seen_images:
    """List which of the studied images the denoiser was trained on, as far as that is on record."""
    input:
        first=by_content(study.studied_stores()[0]),
        second=by_content(study.studied_stores()[1]),
        digests=study.digests(study.studied_stores()),
        model="results/models/{model}/model.json",
        settled=settled,
    output:
        tables["seen"].path,
    log:
        "results/logs/seen_images/{model}.log",
    benchmark:
        "results/benchmarks/seen_images/{model}.tsv"
    priority: 1
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        domains=list(study.domains),
        samples=study.config.capture.samples,
        code=study.code("seen_images"),
    message:
        "Telling which images {wildcards.model} was trained on"
    script:
        "../workflow_scripts/seen_images.py"


# A checkpoint for the same reason: other labels in the table that says the groups leave these as they were. It asks for
# nothing itself: of a checkpoint that does, it is found too late that it has to run for others to ask for it.
checkpoint image_groups:
    """Note which images of one data set belong together: the unit of all statistics, which no capture depends on."""
    input:
        dataset=lambda wildcards: by_content(f"results/{wildcards.folder}/{wildcards.dataset}.zarr.zip"),
        digests=lambda wildcards: study.digests([f"results/{wildcards.folder}/{wildcards.dataset}.zarr.zip"]),
        table=lambda wildcards: study.group_table(wildcards.dataset),
    output:
        GROUPS,
    log:
        "results/logs/image_groups/{folder}/{dataset}.log",
    benchmark:
        "results/benchmarks/image_groups/{folder}/{dataset}.tsv"
    wildcard_constraints:
        folder=r"datasets|unseen/[^/]+",
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
    """Measure what still differs between the matched domains, and refuse those with too few images to study."""
    input:
        first=by_content(study.studied_stores()[0]),
        second=by_content(study.studied_stores()[1]),
        digests=study.digests(study.studied_stores()),
        settled=settled,
    output:
        "results/datasets/comparison.json",
    log:
        "results/logs/compare_domains.log",
    benchmark:
        "results/benchmarks/compare_domains.tsv"
    priority: 1
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        domains=list(study.domains),
        samples=study.config.capture.samples,
        among=heads.among_references,
        code=study.code("compare_domains"),
    message:
        "Comparing the domains before any model sees them"
    script:
        "../workflow_scripts/compare_domains.py"
