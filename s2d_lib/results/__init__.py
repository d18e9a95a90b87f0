"""Results of runs: the compact bundle that a study commits, what a route cost, what a run spent, its accuracy."""
