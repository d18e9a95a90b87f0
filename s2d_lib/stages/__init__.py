"""Stages: parents and parameters in, a trained policy in a run folder out."""
