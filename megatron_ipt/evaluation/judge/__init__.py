"""How good pairs are: of any engine, measured on its output alone or against gold pairs of the same texts."""
