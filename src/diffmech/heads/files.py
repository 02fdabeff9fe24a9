"""Where the passes of the main study are kept; apart from the study, on which no job depends."""

LATENTS = "results/latents/{model}/{dataset}/{block}/{shard}.zarr.zip"
ATTENTION = "results/attention/{model}/{dataset}/{block}/{shard}.zarr.zip"
