"""Finding what is unusual in brain MRI with a Bayesian VAE, and knowing how sure it is."""
