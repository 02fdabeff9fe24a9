"""Attention of any denoiser: the names of its heads, the tap that watches and intervenes, exact statistics."""
