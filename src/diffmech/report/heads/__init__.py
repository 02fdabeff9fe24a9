"""The page of the main study: what its heads do, as findings, sections and charts."""
