"""The page of the study of anomalies."""
