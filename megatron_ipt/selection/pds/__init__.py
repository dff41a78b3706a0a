"""PDS: data selection by optimal control (arXiv:2410.07064), the mathematics.

A small model is trained on rows of equal weight, and a recursion that runs back through that training says for every
row how much more weight on it would have lowered the loss on a target set. A scorer then learns to predict these scores
from the text alone.

* ``dynamics``: the run and the recursion; takes its derivatives from ``forward_mode`` (exact) or
  ``central_differences`` (for models with first derivatives only).
* ``language_model`` and ``target``: losses of rows of tokens, and what the run is to become good at.
* ``fit``: the scorer.
"""
