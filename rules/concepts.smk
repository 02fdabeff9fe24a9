"""Which weights carry or suppress a concept, and what is left without them."""

from diffmech.concepts.paths import EVALUATION, FIDELITIES, MAPS, MASK, ORIGINALS, PROBED, Concepts

concepts = Concepts(study)


if not IS_MODULE:

    localrules:
        concepts,


wildcard_constraints:
    concept=either(concepts.names),
    objective=either(concepts.objectives),
    dose=either(concepts.every_dose),


rule concepts:
    """The page on concepts."""
    input:
        concepts.page,


rule attribute_concept:
    """Score the weights of a denoiser by what a concept's objectives lose without them."""
    input:
        model="results/models/{model}/model.json",
        settled=settled_weights,
    output:
        **{objective: concepts.gradients(objective) for objective in concepts.objectives},
        map=MAPS,
    log:
        "results/logs/attribute_concept/{model}/{concept}.log",
    benchmark:
        "results/benchmarks/attribute_concept/{model}/{concept}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.attribution_settings(wildcards.concept),
        code=study.denoising_code("attribute_concept"),
    message:
        "Scoring the weights of {wildcards.model} for {wildcards.concept}"
    script:
        "../workflow_scripts/attribute_concept.py"


rule concept_fidelity:
    """Hold what scores predict against what happens when random sets of weights are set to 0."""
    input:
        model="results/models/{model}/model.json",
        settled=settled_weights,
    output:
        FIDELITIES,
    log:
        "results/logs/concept_fidelity/{model}/{concept}.log",
    benchmark:
        "results/benchmarks/concept_fidelity/{model}/{concept}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.fidelity_settings(wildcards.concept),
        code=study.denoising_code("concept_fidelity"),
    message:
        "Checking the scores of {wildcards.model} for {wildcards.concept}"
    script:
        "../workflow_scripts/concept_fidelity.py"


rule concept_originals:
    """Sample the images of one concept that no edit of single weights changes."""
    input:
        model="results/models/{model}/model.json",
        judge=concepts.judge,
        detector=study.detector_files(concepts.section.judges),
        settled=settled_weights,
    output:
        ORIGINALS,
    log:
        "results/logs/concept_originals/{model}/{concept}.log",
    benchmark:
        "results/benchmarks/concept_originals/{model}/{concept}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.originals_settings(wildcards.concept),
        code=study.denoising_code("concept_originals"),
        detector=study.detector_code(concepts.section.judges),
    message:
        "Sampling {wildcards.concept} from the unedited {wildcards.model}"
    script:
        "../workflow_scripts/concept_originals.py"


rule edit_concept:
    """Change the chosen weights, and sample the same seeds again, beside edits of equally many weights."""
    input:
        model="results/models/{model}/model.json",
        judge=concepts.judge,
        gradients=lambda wildcards: [file.format(**wildcards) for file in concepts.gradients(wildcards.objective)],
        originals=ORIGINALS,
        detector=study.detector_files(concepts.section.judges),
        mechanisms=lambda wildcards: (
            tables["mechanisms"].at(model=wildcards.model) if concepts.by_mechanism(wildcards.objective) else []
        ),
        settled=settled_weights,
    output:
        mask=MASK,
        images=EVALUATION,
    log:
        "results/logs/edit_concept/{model}/{concept}/{objective}/{dose}.log",
    benchmark:
        "results/benchmarks/edit_concept/{model}/{concept}/{objective}/{dose}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: concepts.edit_settings(wildcards.concept, wildcards.objective, wildcards.dose),
        code=study.denoising_code("edit_concept"),
        detector=study.detector_code(concepts.section.judges),
    message:
        "Editing {wildcards.model}: {wildcards.objective} {wildcards.concept}, {wildcards.dose}"
    script:
        "../workflow_scripts/edit_concept.py"


rule judge_confusion:
    """Tabulate what the judge sees in drawn faces that it never saw, and in the unedited images."""
    input:
        model="results/models/{model}/model.json",
        judge=concepts.judge,
        originals=concepts.originals(),
        detector=study.detector_files(concepts.section.judges),
        settled=settled_weights,
    output:
        tables["judge_confusion"].path,
    log:
        "results/logs/judge_confusion/{model}.log",
    benchmark:
        "results/benchmarks/judge_confusion/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=concepts.confusion_settings(),
        names=concepts.names,
        code=study.code("judge_confusion"),
        detector=study.detector_code(concepts.section.judges),
    message:
        "Asking what the judge of {wildcards.model} is worth"
    script:
        "../workflow_scripts/judge_confusion.py"


rule concept_effects:
    """Tabulate what edits change, with intervals over seeds."""
    input:
        originals=concepts.originals(),
        evaluations=concepts.evaluations(),
        settled=settled_weights,
    output:
        rates=tables["concept_rates"].path,
        effects=tables["concept_effects"].path,
        quality=tables["concept_quality"].path,
    log:
        "results/logs/concept_effects/{model}.log",
    benchmark:
        "results/benchmarks/concept_effects/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=concepts.effects_settings(),
        names=concepts.names,
        seed=study.seed,
        code=study.code("concept_effects"),
    message:
        "Measuring what edits of {wildcards.model} change"
    script:
        "../workflow_scripts/concept_effects.py"


rule concepts_page:
    """Write the page on concepts."""
    input:
        **{
            name: tables[f"concept_{name}"].at(model=study.model)
            for name in ("rates", "effects", "quality", "probes", "attention", "heads", "overlap")
        },
        confusion=tables["judge_confusion"].at(model=study.model),
        probed=concepts.probed(PROBED),
        maps=concepts.per_concept(MAPS),
        fidelities=concepts.per_concept(FIDELITIES),
        originals=concepts.originals(),
        evaluations=concepts.evaluations(),
        references=shipped("references-concepts.yaml"),
        settled=settled,
    output:
        page=concepts.page,
        findings=concepts.findings,
        pictures=concepts.pictures,
    log:
        "results/logs/concepts_page.log",
    benchmark:
        "results/benchmarks/concepts_page.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.settings(concepts=concepts.section),
        code=study.code("concepts_page"),
    message:
        "Writing the page on concepts"
    script:
        "../workflow_scripts/concepts_page.py"
