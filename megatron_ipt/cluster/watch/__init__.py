"""Jobs while they run: progress, hangs, health of nodes."""
