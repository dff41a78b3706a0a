"""Slurm and planning: submit a recipe as a chain of jobs, watch it, survive the cluster, and know the cost before."""
