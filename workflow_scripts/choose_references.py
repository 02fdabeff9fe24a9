"""Choose reference images of groups that are not studied."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.data.reference_images import choose_references

    choose_references(job.groups, job.params.domains, job.output[0], **job.params.among)
