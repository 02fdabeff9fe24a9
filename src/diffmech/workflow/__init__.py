"""Import-light glue between Snakemake and the library: paths, shards, fingerprints, the session of one job."""
