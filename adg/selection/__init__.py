"""From scores to a subset: the contract of selectors, bins and quotas, and ADG itself."""
