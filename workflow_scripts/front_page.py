"""Write the front page over all studies."""

from pathlib import Path

from diffmech.workflow.front import restore
from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.report.front_page import write_front_page

    write_front_page(restore(job.params.cards, job.placed), Path(job.output[0]), title=job.params.title)
