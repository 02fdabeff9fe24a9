"""The page of the study of VAEs."""
