"""Import-light glue between Snakemake and the library: the study, shards, fingerprints, the session of one job."""
