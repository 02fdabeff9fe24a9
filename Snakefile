"""diffmech: from images and a denoiser to a causal account of its attention heads."""

import sys
from pathlib import Path

from snakemake.settings.types import ExecMode
from snakemake.utils import min_version

min_version("9.8")

# A clone runs without being installed: the rules and their scripts find the library here.
sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from diffmech.workflow.fingerprints import remember
from diffmech.workflow.front import FRONT_PAGE, MAIN_PAGE, further_pages
from diffmech.workflow.notes import notes
from diffmech.workflow.startup import forget_dead_run, grow, share_with_jobs
from diffmech.workflow.watched import forget_watched

share_with_jobs(Path(workflow.basedir) / "src")
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.dryrun:
    alive = forget_dead_run(Path(".snakemake"))
if workflow.exec_mode == ExecMode.DEFAULT:
    forget_watched()


configfile: Path(workflow.basedir) / "config.yaml"


include: "rules/common.smk"


# All others, so that the rules of a new study are found; what they share is in common.smk.
for rule_file in sorted((Path(workflow.basedir) / "rules").glob("*.smk")):
    if rule_file.name != "common.smk":

        include: rule_file


for declared in workflow.rules:
    grow(declared.resources)
remember()
if workflow.exec_mode == ExecMode.DEFAULT:
    for note in notes(study.config, Path(workflow.basedir)):
        logger.warning(f"config: {note}")


rule all:
    default_target: True
    input:
        MAIN_PAGE,
        heads.recoveries(),


rule everything:
    """The page of every study that the configuration asks for, and the front page over all of them."""
    input:
        rules.all.input,
        further_pages(study),
        FRONT_PAGE,
