"""Tabulate what edits of concepts do to the entropy of attention."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.inside import concept_attention

    concept_attention(list(job.input.stores), job.output[0], **job.params.settings, seed=job.params.seed)
