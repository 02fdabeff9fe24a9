"""Pack the pages and tables of the study, with where they come from, so that others can check them."""

from pathlib import Path

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.provenance.crate import PACKAGE, Study, pack

    study = Study(job.params.title, job.params.settings, job.root, job.params.license)
    packed = list(job.input.packed)
    print(pack(Path(packed[0]).with_name(PACKAGE), packed, job.params.records, study, stores=job.params.stores))
