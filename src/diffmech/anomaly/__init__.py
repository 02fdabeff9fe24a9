"""The study of anomalies in brain MRI: what is unusual in a slice, and how sure the model is of it."""
