"""Read or make the slices of all patients, and say who trains, validates and tests."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from pydantic import TypeAdapter

    from diffmech.anomaly.rounds import prepare_brains
    from diffmech.config.anomaly_data import AnyBrains, SplitConfig

    rounds = job.params.rounds
    prepare_brains(
        TypeAdapter(AnyBrains).validate_python(job.params.settings["data"]),
        job.section(SplitConfig, "splits"),
        job.params.settings["folds"],
        output=job.output.slices,
        table=job.output.table,
        digest=job.output.digest,
        seen=dict(zip(rounds, map(Path, job.output.seen), strict=True)),
        tested=dict(zip(rounds, map(Path, job.output.tested), strict=True)),
    )
