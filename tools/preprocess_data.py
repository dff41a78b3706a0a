#!/usr/bin/env python3
"""Tokenizes text into Megatron indexed datasets; takes the flags of Megatron-LM's preprocess_data.py and more."""

import sys

from megatron_ipt.tokens.preprocess.arguments import main

if __name__ == "__main__":
    sys.exit(main())
