"""The tables and figures of the paper: grids of trials, and three studies that are none."""
