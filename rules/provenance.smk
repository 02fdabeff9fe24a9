"""Where an artifact comes from, and the study packed so that others can check it."""

from diffmech.provenance.chain import records_behind
from diffmech.provenance.crate import PACKAGE, all_records
from diffmech.workflow.front import FRONT_PAGE, MAIN_FINDINGS, MAIN_PAGE, further_findings, further_pages

PACKED = [FRONT_PAGE, MAIN_PAGE, MAIN_FINDINGS, *further_pages(study), *further_findings(study)]


# Without output it runs whenever it is asked for.
rule provenance:
    """Print the jobs behind the artifact that `--config target=...` names: settings, code, versions, digests."""
    log:
        "results/logs/provenance.log",
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        target=str(asked["target"] or ""),
        records=lambda wildcards: records_behind(str(asked["target"] or ""), record_of),
        code=study.code("provenance"),
    message:
        "Tracing where an artifact comes from"
    script:
        "../workflow_scripts/provenance.py"


# As that: what is packed tells of records that no output depends on.
rule pack:
    """Pack pages, tables and what they come from as an RO-Crate, with `--config stores=true` all stores and weights."""
    input:
        packed=PACKED,
        settled=settled_groups,
    log:
        "results/logs/pack.log",
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        title=study.config.report.title,
        settings=study.config.model_dump(mode="json"),
        license=str(asked["license"] or ""),
        stores=asked["stores"],
        records=lambda wildcards, input: all_records(list(input.packed), record_of),
        code=study.code("pack"),
    message:
        "Packing the study"
    script:
        "../workflow_scripts/pack.py"
