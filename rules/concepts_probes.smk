"""Whether an erased concept is destroyed or avoided."""

from diffmech.concepts.paths import EVALUATION, MASK, PROBED


rule probe_concept:
    """Look in an edited denoiser for the concept that was erased, in ways that do not train it."""
    input:
        model="results/models/{model}/model.json",
        judge=concepts.judge,
        mask=lambda wildcards: MASK.format(**wildcards, objective="erase"),
        detector=study.detector_files(concepts.section.judges),
        settled=settled_weights,
    output:
        PROBED,
    log:
        "results/logs/probe_concept/{model}/{concept}/{dose}.log",
    benchmark:
        "results/benchmarks/probe_concept/{model}/{concept}/{dose}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.probe_settings(wildcards.concept),
        code=study.denoising_code("probe_concept"),
        detector=study.detector_code(concepts.section.judges),
    message:
        "Looking for {wildcards.concept} in {wildcards.model} without {wildcards.dose} of its weights"
    script:
        "../workflow_scripts/probe_concept.py"


rule concept_probes:
    """Tabulate how much of the concepts the probes bring back."""
    input:
        originals=concepts.originals(),
        evaluations=concepts.probed(EVALUATION),
        probes=concepts.probed(PROBED),
        settled=settled_weights,
    output:
        tables["concept_probes"].path,
    log:
        "results/logs/concept_probes/{model}.log",
    benchmark:
        "results/benchmarks/concept_probes/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings={key: value for key, value in concepts.effects_settings().items() if key != "permutations"},
        names=concepts.names,
        seed=study.seed,
        code=study.code("concept_probes"),
    message:
        "Measuring what comes back in {wildcards.model}"
    script:
        "../workflow_scripts/concept_probes.py"
