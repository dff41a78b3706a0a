"""Package metadata and dependency ranges; ``constraints.txt`` pins the versions that are tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "megatron_ipt/__init__.py").read_text()).group(1)

EXTRAS = {
    # Training, conversion and evaluation. psutil is used by Megatron-Core's checkpoint writer without being declared.
    "train": [
        "torch>=2.6",
        "megatron-core>=0.16,<0.18",
        "psutil",
        "safetensors>=0.4",
        "transformers>=4.57,<6",
        "tensorboard>=2.16",
    ],
    "report": ["jinja2>=3.1", "matplotlib>=3.8"],
    # Pairs from any OpenAI-compatible server. The engine transformers needs the extra train.
    "synthesis": ["openai>=1.60"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# Brings its own torch and transformers, so it wants an environment of its own.
EXTRAS["tensorrt-llm"] = ["tensorrt-llm>=1.2"]
EXTRAS["test"] = [
    *EXTRAS["all"],
    # A real server to synthesize with, and a real tokenizer, both without a download from a hub.
    "transformers[serving]",
    "mistral-common",
    "pytest>=8",
    "hypothesis>=6",
    "ruff",
    "mypy",
    "types-PyYAML",
]

setup(
    name="megatron-ipt",
    version=VERSION,
    description="Instruction Pre-Training on Megatron-Core: raw text in, a Hugging Face model out",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["megatron_ipt", "megatron_ipt.*"]),
    package_data={"megatron_ipt": ["py.typed", "**/*.yaml", "**/*.j2", "**/*.css"]},
    install_requires=[
        "click>=8.1",
        "omegaconf>=2.4",
        "PyYAML>=6",
        "orjson>=3.9",
        "numpy>=1.26",
        "xxhash>=3.4",
        "zstandard>=0.22",
        "fsspec>=2024.2",
        "pyarrow>=15",
        "sentencepiece>=0.2",
        "tokenizers>=0.20",
        # The fast tokenizer engine; young, so its minor versions are not taken unseen.
        "gigatoken>=0.10,<0.11",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megatron-ipt = megatron_ipt.cli:main"]},
)
