"""Package metadata and dependency ranges; ``constraints.txt`` pins the versions that are tested.

The version is that of ``megatron_ipt/__init__.py``, the settings of tools are in ``pyproject.toml``, and what a source
archive holds besides the package in ``MANIFEST.in``. ``docs/licences.md`` lists the licences of what is required here.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "megatron_ipt/__init__.py").read_text()).group(1)

URL = "https://github.com/megatron-ipt/megatron-ipt"

EXTRAS = {
    # Training, conversion and evaluation. psutil is used by Megatron-Core's checkpoint writer without being declared.
    "train": [
        "torch>=2.6",
        "megatron-core>=0.16,<0.18",
        "psutil",
        "transformers>=4.57,<6",
        "tensorboard>=2.16",
    ],
    "report": ["jinja2>=3.1", "markupsafe>=2.0", "matplotlib>=3.8"],
    # Chat templates of instruction tuning.
    "tuning": ["jinja2>=3.1"],
    # Pairs from any OpenAI-compatible server, and chat templates. The engine transformers needs the extra train.
    "synthesis": ["openai>=1.60", "jinja2>=3.1"],
    # Contexts of paragraphs that share a task: the search for neighbours, and the sentence encoder.
    "composition": ["faiss-cpu>=1.9", "torch>=2.6", "transformers>=4.57,<6"],
    # Benchmarks. lm-eval's own extra hf would also bring peft, which no model of ours needs.
    "eval": ["lm-eval>=0.4.13,<0.5", "accelerate>=0.26", "torch>=2.6", "transformers>=4.57,<6"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS |= {
    # Each of these brings its own torch, transformers or CUDA libraries: an environment of its own, on a GPU machine.
    "tensorrt-llm": ["tensorrt-llm>=1.2"],
    "vllm": ["vllm>=0.10"],
    "nemo": ["nemo-toolkit>=2.7,<3"],
    "megatron-bridge": ["megatron-bridge>=0.3.1"],
    # FP8 and fused layers on NVIDIA GPUs, beside the extra train; compiled against the torch that is there.
    "fp8": ["transformer-engine[pytorch]>=2.2"],
}
# The API reference as HTML.
EXTRAS["docs"] = [*EXTRAS["all"], "pdoc>=15"]
EXTRAS["test"] = [
    *EXTRAS["all"],
    # A real server to synthesize with, and a real tokenizer, both without a download from a hub.
    "transformers[serving]",
    "mistral-common",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6",
    # What our own ROUGE is compared with.
    "rouge-score>=0.1.2",
    # The notebook of the documentation is executed.
    "nbclient>=0.10",
    "ipykernel>=6",
    "ruff",
    "mypy",
    "types-PyYAML",
    # The package is built in a test, with what is installed.
    "setuptools>=77",
    "wheel",
]

setup(
    name="megatron-ipt",
    version=VERSION,
    description="Instruction Pre-Training on Megatron-Core: raw text in, a Hugging Face model out",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=URL,
    project_urls={
        "Documentation": f"{URL}/blob/main/docs/README.md",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    },
    keywords=["pre-training", "instruction pre-training", "language models", "megatron", "synthetic data", "slurm"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
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
        # MinHash, 0.5 MB without dependencies; young, so its minor versions are not taken unseen.
        "rensa>=0.5,<0.6",
        # The sentiment of texts, for the engine pseudo_labels: a lexicon, pure Python.
        "vaderSentiment>=3.3.2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megatron-ipt = megatron_ipt.cli:main"]},
)
