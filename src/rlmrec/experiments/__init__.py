"""Training runs and trials: their options, their records, sweeps and grids of them."""

DEFAULT_PRESET = "general"  # the set of options that a run starts from
