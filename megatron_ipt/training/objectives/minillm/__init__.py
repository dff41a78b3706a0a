"""MiniLLM: policy gradients of the sequence-level reverse KL (Gu et al. 2024, arXiv:2306.08543)."""
