"""A study as jobs of Slurm: which jobs, in which order, what each does, and where it stands in the queue."""
