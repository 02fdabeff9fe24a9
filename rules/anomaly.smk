"""A Bayesian VAE for brain MRI: what it finds unusual, how sure it is, and what finds lesions without it."""

from diffmech.anomaly import paths as anomaly_paths

anomaly = anomaly_paths.Anomaly(study)


if not IS_MODULE:

    localrules:
        anomaly,


wildcard_constraints:
    round=either(anomaly.rounds),
    network=either(anomaly.networks),
    scored=either(anomaly.predicting),
    rival=either(anomaly.autoencoders),


rule anomaly:
    """The page on unusual brains."""
    input:
        anomaly.page,


# Two checkpoints, as data sets of images are: patients who come to one split leave what is of the others as it is, and
# digests tell which. Whether a job has to run is asked anew of those that have a file of a checkpoint among their inputs,
# so that all below have `slices`, and `seen` of their round or of all. None asks for a checkpoint itself: of a job that
# waits for one that was never run, as for a new round, Snakemake does not ask what else changed.
checkpoint anomaly_slices:
    """Read or make the slices of all patients."""
    output:
        slices=anomaly_paths.SLICES,
        digest=anomaly_paths.DIGEST,
    log:
        "results/logs/anomaly_slices.log",
    benchmark:
        "results/benchmarks/anomaly_slices.tsv"
    priority: 2
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=anomaly.data_settings(),
        code=anomaly.data_code("anomaly_slices"),
        watched=anomaly.watched(),
    message:
        "Reading the slices of all patients"
    script:
        "../workflow_scripts/anomaly_slices.py"


rule anomaly_splits:
    """Say who trains, validates and tests."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        digest=anomaly_paths.DIGEST,
    output:
        tables["anomaly_splits"].path,
    log:
        "results/logs/anomaly_splits.log",
    benchmark:
        "results/benchmarks/anomaly_splits.tsv"
    priority: 2
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=anomaly.split_settings(),
        code=anomaly.data_code("anomaly_splits"),
        watched=anomaly.watched(),
    message:
        "Splitting the patients"
    script:
        "../workflow_scripts/anomaly_splits.py"


rule anomaly_folds:
    """Say who tests in which round of a cross-validation."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        digest=anomaly_paths.DIGEST,
    output:
        tables["anomaly_folds"].path,
    log:
        "results/logs/anomaly_folds.log",
    benchmark:
        "results/benchmarks/anomaly_folds.tsv"
    priority: 2
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        folds=anomaly.section.folds,
        seed=anomaly.section.splits.seed,
        code=study.code("anomaly_folds"),
    message:
        "Dealing the patients out to folds"
    script:
        "../workflow_scripts/anomaly_folds.py"


checkpoint anomaly_round:
    """Take the digests of what networks of one round see, and of what they are tested on."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        digest=anomaly_paths.DIGEST,
        table=anomaly.table,
    output:
        seen=anomaly_paths.SEEN,
        tested=anomaly_paths.TESTED,
    log:
        "results/logs/anomaly_round/{round}.log",
    benchmark:
        "results/benchmarks/anomaly_round/{round}.tsv"
    priority: 2
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        code=study.code("anomaly_round"),
    message:
        "Taking the digests of {wildcards.round}"
    script:
        "../workflow_scripts/anomaly_round.py"


rule anomaly_train:
    """Train one network on slices without a lesion; a killed training resumes from its last checkpoint."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        seen=anomaly_paths.SEEN,
    output:
        record=anomaly_paths.RECORD,
        weights=anomaly_paths.WEIGHTS,
    log:
        "results/logs/anomaly_train/{round}/{network}.log",
    benchmark:
        "results/benchmarks/anomaly_train/{round}/{network}.tsv"
    priority: 1
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=lambda wildcards: anomaly.training_settings(wildcards.round, wildcards.network),
        checkpoints=lambda wildcards: anomaly.checkpoints(wildcards.round, wildcards.network),
        code=study.code("anomaly_train"),
    message:
        "Training {wildcards.network} of {wildcards.round}"
    script:
        "../workflow_scripts/anomaly_train.py"


rule anomaly_predict:
    """Score slices by what networks predict together: error, variance, and both."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        seen=anomaly_paths.SEEN,
        tested=anomaly_paths.TESTED,
        records=lambda wildcards: anomaly.behind(anomaly_paths.RECORD, wildcards.scored),
        weights=lambda wildcards: anomaly.behind(anomaly_paths.WEIGHTS, wildcards.scored),
    output:
        scores=anomaly_paths.SCORES,
        prediction=anomaly_paths.PREDICTION,
    log:
        "results/logs/anomaly_predict/{round}/{scored}.log",
    benchmark:
        "results/benchmarks/anomaly_predict/{round}/{scored}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=3000,
    params:
        settings=anomaly.scoring_settings(),
        code=study.code("anomaly_predict"),
    message:
        "Scoring slices of {wildcards.round} by {wildcards.scored}"
    script:
        "../workflow_scripts/anomaly_predict.py"


rule anomaly_rival:
    """Score slices by the error of an autoencoder."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        seen=anomaly_paths.SEEN,
        tested=anomaly_paths.TESTED,
        record=anomaly_paths.RECORD.replace("{network}", "{rival}"),
        weights=anomaly_paths.WEIGHTS.replace("{network}", "{rival}"),
    output:
        anomaly_paths.SCORES.replace("{scored}", "{rival}"),
    log:
        "results/logs/anomaly_rival/{round}/{rival}.log",
    benchmark:
        "results/benchmarks/anomaly_rival/{round}/{rival}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        settings=anomaly.scoring_settings(),
        code=study.code("anomaly_rival"),
    message:
        "Scoring slices of {wildcards.round} by {wildcards.rival}"
    script:
        "../workflow_scripts/anomaly_rival.py"


rule anomaly_competitors:
    """Score slices by all that needs no training: position, threshold, atlas, PCA, nearest features."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        seen=anomaly_paths.SEEN,
        tested=anomaly_paths.TESTED,
        records=anomaly.behind(anomaly_paths.RECORD, "model"),
        weights=anomaly.behind(anomaly_paths.WEIGHTS, "model"),
    output:
        anomaly_paths.COMPETITORS,
    log:
        "results/logs/anomaly_competitors/{round}.log",
    benchmark:
        "results/benchmarks/anomaly_competitors/{round}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=3000,
    params:
        settings=anomaly.scoring_settings(),
        code=study.code("anomaly_competitors"),
    message:
        "Scoring slices of {wildcards.round} without a network"
    script:
        "../workflow_scripts/anomaly_competitors.py"


rule anomaly_entropies:
    """Watch the heads of one network through the tap."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        seen=anomaly_paths.SEEN,
        tested=anomaly_paths.TESTED,
        record=anomaly_paths.RECORD,
        weights=anomaly_paths.WEIGHTS,
    output:
        tables["anomaly_entropies"].path,
    log:
        "results/logs/anomaly_entropies/{round}/{network}.log",
    benchmark:
        "results/benchmarks/anomaly_entropies/{round}/{network}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=2000,
    params:
        code=study.code("anomaly_entropies"),
    message:
        "Watching the heads of {wildcards.network} of {wildcards.round}"
    script:
        "../workflow_scripts/anomaly_entropies.py"


rule anomaly_account:
    """Tabulate the splits and the trainings."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        records=anomaly.records(),
    output:
        data=tables["anomaly_data"].path,
        trainings=tables["anomaly_trainings"].path,
    log:
        "results/logs/anomaly_account.log",
    benchmark:
        "results/benchmarks/anomaly_account.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        rounds=anomaly.rounds,
        code=study.code("anomaly_account"),
    message:
        "Tabulating the trainings"
    script:
        "../workflow_scripts/anomaly_account.py"


rule anomaly_slicewise:
    """Judge how well scores tell slices apart, overall and among slices of one position."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        scores=anomaly.scores(),
    output:
        measures=tables["anomaly_slice_measures"].path,
        curves=tables["anomaly_curves"].path,
    log:
        "results/logs/anomaly_slicewise.log",
    benchmark:
        "results/benchmarks/anomaly_slicewise.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=anomaly.judging_settings(),
        code=study.code("anomaly_slicewise"),
    message:
        "Judging the scores of slices"
    script:
        "../workflow_scripts/anomaly_slicewise.py"


rule anomaly_pixelwise:
    """Judge how well maps tell pixels apart, by size and kind of lesions."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        scores=anomaly.scores(),
    output:
        tables["anomaly_pixel_measures"].path,
    log:
        "results/logs/anomaly_pixelwise.log",
    benchmark:
        "results/benchmarks/anomaly_pixelwise.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=anomaly.judging_settings(),
        code=study.code("anomaly_pixelwise"),
    message:
        "Judging the maps of pixels"
    script:
        "../workflow_scripts/anomaly_pixelwise.py"


rule anomaly_ablations:
    """Hold the model against what lacks attention, uncertainty or an ensemble."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        scores=anomaly.compared(),
    output:
        tables["anomaly_ablations"].path,
    log:
        "results/logs/anomaly_ablations.log",
    benchmark:
        "results/benchmarks/anomaly_ablations.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=anomaly.judging_settings(),
        code=study.code("anomaly_ablations"),
    message:
        "Comparing with what the model lacks"
    script:
        "../workflow_scripts/anomaly_ablations.py"


rule anomaly_heads:
    """Ask whether heads attend otherwise on slices with lesions."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        entropies=anomaly.entropies(),
    output:
        tables["anomaly_heads"].path,
    log:
        "results/logs/anomaly_heads.log",
    benchmark:
        "results/benchmarks/anomaly_heads.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=3000,
    params:
        settings=anomaly.judging_settings(),
        code=study.code("anomaly_heads"),
    message:
        "Comparing the heads on slices with lesions"
    script:
        "../workflow_scripts/anomaly_heads.py"


rule anomaly_certainty:
    """Ask whether predicted variances are true, and what is gained by leaving doubtful slices to a reader."""
    input:
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        scores=anomaly.scores(),
        predictions=anomaly.predictions(),
    output:
        **{name: tables[name].path for name in anomaly.of_certainty},
    log:
        "results/logs/anomaly_certainty.log",
    benchmark:
        "results/benchmarks/anomaly_certainty.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=anomaly.judging_settings(),
        code=study.code("anomaly_certainty"),
    message:
        "Judging the uncertainty"
    script:
        "../workflow_scripts/anomaly_certainty.py"


rule anomaly_page:
    """Write the page on unusual brains."""
    input:
        **{name: tables[name].path for name in anomaly.of_page},
        slices=ancient(anomaly_paths.SLICES),
        table=ancient(anomaly.table),
        digest=anomaly_paths.DIGEST,
        seen=anomaly.of_rounds(anomaly_paths.SEEN),
        scores=anomaly.scores(),
        predictions=anomaly.shown(),
        references=shipped("references-anomaly.yaml"),
    output:
        page=anomaly.page,
        findings=anomaly.findings,
        picture=anomaly.picture,
    log:
        "results/logs/anomaly_page.log",
    benchmark:
        "results/benchmarks/anomaly_page.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=study.settings(anomaly=anomaly.section),
        code=study.code("anomaly_page"),
    message:
        "Writing the page on unusual brains"
    script:
        "../workflow_scripts/anomaly_page.py"
