"""Many demonstrations at inference: structured prompting (arXiv:2212.06713), and plain concatenation beside it.

* ``demonstrations``: which ones, in which order, and how they are shared out over groups.
* ``cache`` and ``context``: groups encoded apart, and what follows them, on unmodified models of transformers.
* ``answers``: likelihoods of options, and answers by beam search.
* ``requirements``: models that this cannot be done with, and the memory it takes.
* ``questions`` and ``curve``: accuracy on questions, and against the number of demonstrations.
"""
