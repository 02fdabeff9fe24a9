"""Look for an erased concept in the edited denoiser."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.probes import probe_concept
    from diffmech.config.concept_probes import ProbesConfig
    from diffmech.config.judging import JudgesConfig
    from diffmech.config.studies.concepts import EvaluationConfig, NamedConcept

    probe_concept(
        job.input.model,
        job.input.mask,
        next(iter(job.input.judge), None),
        job.output[0],
        concept=job.section(NamedConcept, "concept"),
        evaluation=job.section(EvaluationConfig, "evaluation"),
        probes=job.section(ProbesConfig, "probes"),
        judges=job.section(JudgesConfig, "judges"),
        seed=job.params.settings["seed"],
        runtime=job.runtime,
        root=job.root,
    )
