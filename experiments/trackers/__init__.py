"""Where cells are shown beside the files on disk: a module for each tracker, behind the one class of ``run.py``."""
