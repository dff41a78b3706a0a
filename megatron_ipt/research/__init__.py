"""Studies on small models that no stage of a recipe needs; nothing imports this package but its commands."""
