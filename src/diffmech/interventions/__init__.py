"""Causal interventions on attention heads: what happens to the denoiser when a head's output is replaced."""
