"""Parts of ``bench_exactly_once.py``: a dummy server, the tools under test, the killing, and the accounts."""
