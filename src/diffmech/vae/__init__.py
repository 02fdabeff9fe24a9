"""The study of variational autoencoders: families, their disentanglement, and interventions on latents and units."""
