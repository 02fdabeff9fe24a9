"""Find the circuit of one domain and test it on images that had no say in it."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.circuits.discovery import discover_circuit
    from diffmech.config.circuit import CircuitConfig, DiscoveryConfig

    discover_circuit(
        list(job.input.latents),
        job.input.model,
        list(job.input.reference),
        list(job.input.ablations),
        dict(job.output.items()),
        domain=job.params.domain,
        discovery=job.section(DiscoveryConfig, "discovery"),
        circuit=job.section(CircuitConfig, "circuit"),
        method=job.params.method,
        samples=job.params.samples,
        timesteps=job.params.timesteps,
        seed=job.params.seed,
        runtime=job.runtime,
        groups=job.groups,
    )
