"""``python -m megatron_ipt`` is the command ``megatron-ipt``."""

from megatron_ipt.cli import main

if __name__ == "__main__":
    main()
