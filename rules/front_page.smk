"""The front page: which studies there are, and where each has its page."""

from diffmech.workflow.front import FRONT_PAGE, MAIN_FINDINGS, MAIN_PAGE, cards, further_findings, further_pages


rule front_page:
    """Write the front page over the main study and all further ones; those not asked for are named as such."""
    input:
        MAIN_PAGE,
        MAIN_FINDINGS,
        pages=further_pages(study),
        findings=further_findings(study),
        settled=settled_groups,
    output:
        FRONT_PAGE,
    log:
        "results/logs/front_page.log",
    benchmark:
        "results/benchmarks/front_page.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        cards=cards(study),
        title=study.config.study.name,
        code=study.code("front_page"),
    message:
        "Writing the front page"
    script:
        "../workflow_scripts/front_page.py"
