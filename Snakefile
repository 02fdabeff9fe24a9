"""diffmech: from images and a denoiser to a causal account of its attention heads."""

import sys
from pathlib import Path

from snakemake.settings.types import ExecMode
from snakemake.utils import min_version

min_version("9.8")

# A clone runs without being installed: the rules and their scripts find the library here.
sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from diffmech.workflow.fingerprints import remember
from diffmech.workflow.notes import notes
from diffmech.workflow.startup import forget_dead_run, share_with_jobs
from diffmech.workflow.watched import forget_watched

share_with_jobs(Path(workflow.basedir) / "src")
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.dryrun:
    alive = forget_dead_run(Path(".snakemake"))
if workflow.exec_mode == ExecMode.DEFAULT:
    forget_watched()


configfile: Path(workflow.basedir) / "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/latents.smk"
include: "rules/attention.smk"
include: "rules/entropy.smk"
include: "rules/mechanisms.smk"
include: "rules/ablation.smk"
include: "rules/circuit.smk"
include: "rules/patching.smk"
include: "rules/resampling.smk"
include: "rules/account.smk"
include: "rules/planted.smk"
include: "rules/report.smk"
include: "rules/plan.smk"


remember()
if workflow.exec_mode == ExecMode.DEFAULT:
    for note in notes(study.config, Path(workflow.basedir)):
        logger.warning(f"config: {note}")


rule all:
    default_target: True
    input:
        "results/report.html",
        heads.recoveries(),
