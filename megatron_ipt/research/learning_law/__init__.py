"""Learning Law: which example should weigh how much at which step (arXiv:2402.17759).

A small model is trained by gradient descent on all examples in every step, with weights gamma[step, example]. The
weights that make the area under the desired loss as small as possible are found by gradient descent on the weights
themselves.

* ``simplex``: weights of a step stay non-negative and add up to 1.
* ``policy``: area and gradient of a policy (the recursion of ``selection.pds``), the search, the optimum's conditions.
* ``measures``: compression ratio, similarity of contributions, speed-up, scaling-law fit.
* ``perceptron``, ``transformer``: the two examples of the paper.
* ``study``: runs a search that can be interrupted, and writes figures and pictures.
"""
