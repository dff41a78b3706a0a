"""Pairs mined from a text by patterns: the engine that needs no model.

The idea is that of reading comprehension tasks mined by regular expressions (Cheng et al., "Adapting Large Language
Models via Reading Comprehension", ICLR 2024); patterns and wordings are our own. A text that offers nothing gets no
pair.
"""

from megatron_ipt.synthesis.from_text.mined.config import MinedConfig
from megatron_ipt.synthesis.from_text.mined.miner import Miner

__all__ = ["MinedConfig", "Miner"]
