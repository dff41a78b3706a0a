"""Synthesizes instruction–response pairs: ``megatron-ipt synthesize``, for use from a checkout.

Usage: python tools/synthesize.py RECIPE [--shard i/N] [KEY=VALUE ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_ipt.cli import main

# Engines spawn processes that import this file again.
if __name__ == "__main__":
    sys.argv.insert(1, "synthesize")
    main()
