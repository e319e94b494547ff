"""Model-written programs, run confined: ``host`` starts the sandbox, ``inside`` is what runs in it."""
