"""diffmech: from images and a denoiser to a causal account of its attention heads."""

import sys
from pathlib import Path

from snakemake.settings.types import ExecMode
from snakemake.utils import min_version

min_version("9.8")

# Where this file lies, also where the Snakefile of another workflow uses it as a module.
ROOT = Path(str(workflow.current_basedir))
IS_MODULE = not workflow.modifier.is_main_snakefile()  # `is_module` is true of any Snakefile
# A clone runs without being installed: the rules and their scripts find the library here.
sys.path.insert(0, str(ROOT / "src"))

from diffmech.errors import ConfigError
from diffmech.workflow.caching import share_results
from diffmech.workflow.clocks import bring_back
from diffmech.workflow.fingerprints import remember
from diffmech.workflow.front import FRONT_PAGE, MAIN_PAGE, further_pages
from diffmech.workflow.notes import notes
from diffmech.workflow.startup import attend, claim, grow, share_with_jobs
from diffmech.workflow.watched import forget_watched

share_with_jobs(ROOT / "src")
# The folder of a workflow around it is not ours alone. Calls that run nothing need name neither cores nor jobs.
asked_for = workflow.resource_settings.cores or workflow.resource_settings.nodes
runs = asked_for is not None and not workflow.output_settings.dryrun
if workflow.exec_mode == ExecMode.DEFAULT and runs:
    try:
        alive = (attend if IS_MODULE else claim)(Path(".snakemake"))
    except ConfigError as error:
        raise WorkflowError(error)
if workflow.exec_mode == ExecMode.DEFAULT and runs and not IS_MODULE:
    if ahead := bring_back(Path("results"), Path(".snakemake/alive").stat().st_mtime_ns):
        logger.warning(f"results: the times of {ahead} files lay in the future, and are now the present")
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
if workflow.enable_cache and workflow.exec_mode == ExecMode.DEFAULT and not IS_MODULE:  # else --cache is not ours
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
