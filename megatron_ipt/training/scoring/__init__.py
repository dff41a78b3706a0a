"""Log-likelihoods of texts under a checkpoint, forward only, on one rank or many."""
