"""The principle behind the study, exact on a tree of tokens: sparse and dense reward as two ends of one objective.

`tree` enumerates, `objectives` has the two ends and their gradients, `variance` the exact noise of sampled gradients,
`routes` and `training` the routes of Paper A in miniature. NumPy, float64, no trainer. Told in notebook 00.
"""
