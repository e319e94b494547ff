"""Which cells exist and how they are run, resumed, planned and reported."""
