"""The stages of the example pipeline, and how Slurm runs them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherQualityFilter, LanguageFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from steps import LANGUAGES, BundledModel, SpacedWords, with_code

from megatron_mmbert.data.datatrove.writer import TokenStoreMerger, TokenStoreWriter

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def stages(corpus: Path, tokenizer: Path, output: Path, tasks: int) -> dict[str, tuple[list[Any], int]]:
    """Name to (pipeline, tasks), in their order."""
    minhash, words = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8), SpacedWords()
    language = LanguageFilter(list(LANGUAGES), language_threshold=0.65)
    language.model = BundledModel(list(LANGUAGES))
    quality = GopherQualityFilter(language=words, min_stop_words=None)  # its stop words are English
    clean = JsonlReader(str(output / "clean"))
    step = {name: str(output / "minhash" / name) for name in ("signatures", "buckets", "clusters")}
    return {
        "clean": (
            [JsonlReader(str(corpus)), language, with_code, quality, JsonlWriter(str(output / "clean"))],
            tasks,
        ),
        "signatures": ([clean, MinhashDedupSignature(step["signatures"], minhash, words)], tasks),
        "buckets": ([MinhashDedupBuckets(step["signatures"], step["buckets"], config=minhash)], minhash.num_buckets),
        "clusters": ([MinhashDedupCluster(step["buckets"], step["clusters"], config=minhash)], 1),
        "tokens": (
            [
                clean,
                MinhashDedupFilter(step["clusters"]),
                JsonlWriter(str(output / "kept")),
                TokenStoreWriter(output / "parts", tokenizer),
            ],
            tasks,
        ),
        "store": ([TokenStoreMerger(output / "parts", output / "store")], 1),
    }


def run_on_slurm(arguments: argparse.Namespace, planned: dict[str, tuple[list[Any], int]]) -> None:
    """Submit all stages, each after the one before it."""
    path = os.pathsep.join([str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    programs = str(Path(sys.executable).parent)  # datatrove's tasks are started by a program of its own
    before = None
    for name, (pipeline, tasks) in planned.items():
        before = SlurmPipelineExecutor(
            pipeline,
            tasks,
            time="04:00:00",
            partition=arguments.slurm,
            qos=None,
            job_name=name,
            mem_per_cpu_gb=arguments.memory_gb,
            env_command=f"export PATH={shlex.quote(programs)}:$PATH PYTHONPATH={shlex.quote(path)}",
            sbatch_args={"exclusive": ""} if arguments.exclusive else None,
            logging_dir=str(arguments.output / "logs" / name),
            depends=before,
        )
        before.run()
        print(f"{name}: job {before.job_id}")
