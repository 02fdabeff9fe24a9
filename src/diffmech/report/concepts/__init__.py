"""The page of the study of concepts."""
