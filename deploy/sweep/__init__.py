"""`spikeleak sweep`: many runs from one file, in parallel, resumable; their results as one table."""
