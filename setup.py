"""Packaging. README.md says how to install; the extras add what a GPU machine, or a developer, uses."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

setup(
    name="megatron-mmbert",
    version="0.1.0",
    description="Training of massively multilingual encoders on Megatron-Core: the mmBERT recipe, end to end",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    entry_points={"console_scripts": ["mmbert = megatron_mmbert.cli:main"]},
    packages=find_packages(include=["megatron_mmbert", "megatron_mmbert.*"]),
    package_data={
        "megatron_mmbert": ["py.typed"],
        "megatron_mmbert.config": ["presets/*.yaml", "sources/*.yaml"],
        "megatron_mmbert.data.text.inputs": ["*.tsv", "*.txt"],
        "megatron_mmbert.eval.tasks": ["languages.tsv", "definitions/*.yaml", "suites/*.yaml"],
        "megatron_mmbert.report.store": ["page.*"],
        "megatron_mmbert.tokenizer": ["*.cpp", "*.h"],
    },
    # Optional: without a C++ compiler the package installs all the same, and preprocessing is slower.
    ext_modules=[
        Extension(
            f"megatron_mmbert.tokenizer.{name}",
            [f"megatron_mmbert/tokenizer/{name}.cpp"],
            depends=["megatron_mmbert/tokenizer/_bpe_table.h"],
            language="c++",
            extra_compile_args=["-O3", "-std=c++17"],
            optional=True,
        )
        for name in ("_bpe", "_bpe_merges")
    ],
    install_requires=[
        # From above too: of both, names are used that they may drop (megatron_mmbert/compat.py, tests/test_compat.py).
        "torch>=2.11,<2.14",
        "megatron-core>=0.16.1,<0.17",
        "psutil",  # Megatron-Core's checkpoint writers need it and do not declare it
        "numpy",
        "pydantic>=2.7",
        "pyyaml",
        "sentencepiece>=0.2",
        "protobuf",  # SentencePiece's own model files are read and written as protocol buffers
        "tokenizers>=0.20",
        "safetensors",
        "pyarrow",  # reads .parquet and .zst; imported only for these
        "nltk",
        "tensorboard",
        "tqdm",
        "shtab",  # makes the scripts of `mmbert completion`; imported only there
        "matplotlib",
    ],
    extras_require={
        "te": ["transformer-engine[pytorch]>=2.12"],
        "flash": ["flash-attn>=2.8"],
        "hf": ["transformers>=4.57"],
        "eval": ["transformers>=4.57", "scikit-learn>=1.5"],
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny"],
        "datatrove": ["datatrove>=0.10"],
        "dev": [
            "transformers>=4.57",
            "scikit-learn>=1.5",
            "wandb",
            "mlflow-skinny",
            "datatrove>=0.10",
            "orjson",  # for datatrove's readers
            "pytest",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "import-linter",
            "mkdocs-material",
            "pre-commit",
        ],
    },
)
