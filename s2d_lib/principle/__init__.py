"""The principle behind the study, exact on a tree of tokens: sparse and dense reward as two ends of one objective."""
