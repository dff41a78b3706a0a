"""Several recipes that differ in a few keys, trained from the same seeds and held against each other."""
