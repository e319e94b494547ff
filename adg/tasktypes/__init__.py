"""Types of task: which of ten an instruction belongs to, by the backbone's own log-probability of their names."""
