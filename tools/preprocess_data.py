#!/usr/bin/env python3
"""Tokenize texts into Megatron indexed datasets; the flags of Megatron-LM's tool of this name, and more (--help)."""

import sys

from megatron_ipt.tokens.preprocess.arguments import main

if __name__ == "__main__":
    sys.exit(main())
