"""What a selection did: counts and curves, how well it agrees with labels, and how both are shown."""
