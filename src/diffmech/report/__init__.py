"""The page at the end: charts, pictures, sentences and tables made from the artifacts of a study, and nothing else."""
