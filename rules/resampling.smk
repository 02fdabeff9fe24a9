"""What removing heads does to whole images: the same seeds sampled again, clean and with heads replaced."""

from diffmech.heads.resamplings import (
    JUDGED,
    RESAMPLED,
    named_resampled,
    needed_judge,
    resampled_names,
    resampling_settings,
    why_not_resampled,
)

if not IS_MODULE:

    localrules:
        resampling,


rule resampling:
    """The change of generated images, their distance from clean ones, and which attributes went, beside controls."""
    input:
        tables["resampling"].at(model=study.model),


rule resample_images:
    """Sample a part of the removals of one domain: every mechanism, its matched controls, and the clean images."""
    input:
        model="results/models/{model}/model.json",
        reference=lambda wildcards: once_chosen(
            wildcards, [REFERENCE.format(model=study.model, block=block) for block in heads.ablation_blocks]
        ),
        heads=lambda wildcards: checkpoints.label_mechanisms.get(model=wildcards.model).output[0],
        settled=settled_groups,
    output:
        RESAMPLED,
    log:
        "results/logs/resample_images/{model}/{domain}/{part}.log",
    benchmark:
        "results/benchmarks/resample_images/{model}/{domain}/{part}.tsv"
    wildcard_constraints:
        domain=either(list(study.domains)),
        part=r"\d+",
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: resampling_settings(heads, wildcards.domain),
        seed=study.seed,
        code=study.denoising_code("resample_images"),
    message:
        "Sampling images of {wildcards.model} with heads removed, {wildcards.domain}, part {wildcards.part}"
    script:
        "../workflow_scripts/resample_images.py"


rule resampling_effects:
    """Measure what changed in the images, with intervals over seeds, matched controls and corrected p-values."""
    input:
        **named_resampled(heads),
        judge=needed_judge(heads),
        detector=study.detector_files(study.config.resampling),
        settled=settled_groups,
    output:
        table=tables["resampling"].path,
        examples="results/resampling/{model}/examples.zarr.zip",
    log:
        "results/logs/resampling_effects/{model}.log",
    benchmark:
        "results/benchmarks/resampling_effects/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(resampling=JUDGED),
        names=resampled_names(heads),
        why_none=why_not_resampled(heads),
        seed=study.seed,
        code=study.code("resampling_effects"),
        detector=study.detector_code(study.config.resampling),
    message:
        "Measuring what removed heads change in the images of {wildcards.model}"
    script:
        "../workflow_scripts/resampling_effects.py"
