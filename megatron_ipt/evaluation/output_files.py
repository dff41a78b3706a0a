"""Names of the files in the folder of this stage."""

RESULTS = "results.json"
"""Everything measured of the exported model."""
CURVES = "curves.json"
"""The same of every checkpoint that was kept, as far as it makes a curve."""
