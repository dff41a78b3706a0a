"""Selection of training rows: windows of token data are scored and kept or left out, as the papers on selection do.

``selection`` chooses documents before anything is made of them. Here, what training would read is cut into rows of a
fixed length once and for all; a row that is kept is one sample, with a mask, and is never cut again.
"""
