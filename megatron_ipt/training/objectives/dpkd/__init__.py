"""DPKD: direct preference for the teacher's output (Li et al. 2024, arXiv:2406.19774)."""
