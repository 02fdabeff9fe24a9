"""Choose reference images of groups that are not studied."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.data.apart import choose_references

    choose_references(job.groups, job.params.domains, job.output[0], **job.params.among)
