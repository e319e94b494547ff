"""Whether everything that a study needs of a GPU works there: one command, step by step (``make gpu-check``)."""
