"""diffmech: from images and a denoiser to a causal account of its attention heads."""

import sys
from pathlib import Path

from snakemake.settings.types import ExecMode
from snakemake.utils import min_version

min_version("9.8")

# Where this file lies, also where the Snakefile of another workflow uses it as a module.
ROOT = Path(str(workflow.current_basedir))
IS_MODULE = workflow.modifier.is_module
# A clone runs without being installed: the rules and their scripts find the library here.
sys.path.insert(0, str(ROOT / "src"))

from diffmech.workflow.caching import share_results
from diffmech.workflow.fingerprints import remember
from diffmech.workflow.front import FRONT_PAGE, MAIN_PAGE, further_pages
from diffmech.workflow.notes import notes
from diffmech.workflow.startup import forget_dead_run, grow, share_with_jobs
from diffmech.workflow.watched import forget_watched

share_with_jobs(ROOT / "src")
# The locks of a workflow around it are its own.
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.dryrun and not IS_MODULE:
    alive = forget_dead_run(Path(".snakemake"))
if workflow.exec_mode == ExecMode.DEFAULT:
    forget_watched()


configfile: ROOT / "config.yaml"


include: "rules/common.smk"


# All others, so that the rules of a new study are found; what they share is in common.smk.
for rule_file in sorted((ROOT / "rules").glob("*.smk")):
    if rule_file.name != "common.smk":

        include: rule_file


for declared in workflow.rules:
    grow(declared.resources)
remember()
if workflow.enable_cache and workflow.exec_mode == ExecMode.DEFAULT:
    try:
        share_results(workflow.workflow_settings, study, lambda name: getattr(rules, name).rule, os.environ)
    except ConfigError as error:
        raise WorkflowError(f"config: {error}")
if workflow.exec_mode == ExecMode.DEFAULT:
    for note in notes(study.config, ROOT):
        logger.warning(f"config: {note}")


rule all:
    default_target: not IS_MODULE  # of another workflow, its own
    input:
        MAIN_PAGE,
        heads.recoveries(),


rule everything:
    """The page of every study that the configuration asks for, and the front page over all of them."""
    input:
        rules.all.input,
        further_pages(study),
        FRONT_PAGE,
