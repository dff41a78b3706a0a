"""Slurm and planning: plan, submit, watch, fault tolerance."""
