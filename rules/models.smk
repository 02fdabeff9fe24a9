"""Denoisers: trained here, bundled, or brought by the user."""


rule models:
    """Everything about the denoiser: weights, held-out loss, generated images."""
    input:
        f"results/models/{study.model}/model.json",
        tables["seen"].at(model=study.model),
        tables["heldout"].at(model=study.model),
        tables["denoising"].at(model=study.model),
        f"results/models/{study.model}/gallery.zarr.zip",


rule train_denoiser:
    """Train one denoiser on both domains; a killed training resumes from its last checkpoint."""
    input:
        first=by_content(study.dataset_stores()[0]),
        second=by_content(study.dataset_stores()[1]),
        digests=study.digests(study.dataset_stores()),
        settled=settled_data,
    output:
        **study.trained_files,
        history=tables["history"].path,
    log:
        "results/logs/train_denoiser/{model}.log",
    benchmark:
        "results/benchmarks/train_denoiser/{model}.tsv"
    wildcard_constraints:
        model=either(study.trained),
    conda:
        "../envs/diffmech.yaml"
    threads: study.training_threads
    resources:
        gpu=study.gpus,
        mem_mb=6000,
    params:
        settings=lambda wildcards: study.settings(
            model=study.config.models[wildcards.model], images=study.config.images
        ),
        domains=list(study.domains),
        checkpoints=lambda wildcards: study.checkpoints(wildcards.model),
        code=study.code("train_denoiser"),
    message:
        "Training the denoiser {wildcards.model}"
    script:
        "../workflow_scripts/train_denoiser.py"


rule import_denoiser:
    """Check a bundled or foreign denoiser and note where its weights are and what they hash to."""
    input:
        lambda wildcards: study.own_files(wildcards.model),
    output:
        "results/models/{model}/model.json",
    log:
        "results/logs/import_denoiser/{model}.log",
    benchmark:
        "results/benchmarks/import_denoiser/{model}.tsv"
    wildcard_constraints:
        model=either(study.imported),
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        settings=lambda wildcards: study.settings(
            model=study.config.models[wildcards.model], images=["size", "channels"]
        ),
        implementation=lambda wildcards: study.own_code(wildcards.model),
        code=study.code("import_denoiser"),
    message:
        "Checking the denoiser {wildcards.model}"
    script:
        "../workflow_scripts/import_denoiser.py"


rule heldout_loss:
    """Measure per timestep whether the model denoises, and its loss on images that it was trained on and never saw."""
    input:
        first=by_content(study.dataset_stores()[0]),
        second=by_content(study.dataset_stores()[1]),
        digests=study.digests(study.dataset_stores()),
        model="results/models/{model}/model.json",
        groups=study.groups_of_all(),
        settled=settled_groups,
    output:
        heldout=tables["heldout"].path,
        denoising=tables["denoising"].path,
    log:
        "results/logs/heldout_loss/{model}.log",
    benchmark:
        "results/benchmarks/heldout_loss/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=lambda wildcards: study.settings(
            model=study.config.models[wildcards.model],
            capture=["timesteps", "samples", "images"],
            latents=["condition"],
        ),
        domains=list(study.domains),
        grouped=study.grouped,
        seed=study.seed,
        code=study.denoising_code("heldout_loss"),
    message:
        "Measuring whether {wildcards.model} denoises"
    script:
        "../workflow_scripts/heldout_loss.py"


rule generate_gallery:
    """Generate images from the denoiser, with and without each attribute."""
    input:
        model="results/models/{model}/model.json",
        settled=settled_weights,
    output:
        "results/models/{model}/gallery.zarr.zip",
    log:
        "results/logs/generate_gallery/{model}.log",
    benchmark:
        "results/benchmarks/generate_gallery/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(sampling=study.config.sampling),
        code=study.denoising_code("generate_gallery"),
    message:
        "Generating images with {wildcards.model}"
    script:
        "../workflow_scripts/generate_gallery.py"


rule recognition:
    """Train a small classifier on drawn faces and let it judge conditional samples of the denoiser."""
    input:
        tables["recognition"].at(model=study.model),


rule train_judge:
    """Train the classifier that tells which attributes an image shows, or take the one that came with the weights."""
    input:
        model="results/models/{model}/model.json",
        settled=settled_weights,
    output:
        "results/judges/{model}.safetensors",
    log:
        "results/logs/train_judge/{model}.log",
    benchmark:
        "results/benchmarks/train_judge/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.training_threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(
            recognition=["attributes", "faces", "epochs", "seed"],
            images=study.config.images,
        ),
        code=study.code("train_judge"),
    message:
        "Training the judge of what {wildcards.model} draws"
    script:
        "../workflow_scripts/train_judge.py"


rule check_recognition:
    """Share of generated images in which a classifier recognises the attribute they were conditioned on."""
    input:
        model="results/models/{model}/model.json",
        judge="results/judges/{model}.safetensors",
        settled=settled_weights,
    output:
        tables["recognition"].path,
    log:
        "results/logs/check_recognition/{model}.log",
    benchmark:
        "results/benchmarks/check_recognition/{model}.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: study.training_threads
    resources:
        gpu=study.gpus,
        mem_mb=4000,
    params:
        settings=study.settings(recognition=study.config.recognition, sampling=["steps", "guidance"]),
        code=study.denoising_code("check_recognition"),
    message:
        "Checking that samples of {wildcards.model} show their attributes"
    script:
        "../workflow_scripts/check_recognition.py"
