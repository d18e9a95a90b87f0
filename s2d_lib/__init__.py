"""s2d: sparse-to-dense post-training studies, as notebooks over a small library."""
