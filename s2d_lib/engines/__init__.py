"""vLLM as the engine for sampling: refused where it can't be right, and checked wherever it is used."""
