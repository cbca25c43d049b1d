"""What saving every 50 steps costs, written in the background and waited for; five minutes on two cores.

    OMP_NUM_THREADS=2 python benchmarks/async_save.py             # writes docs/results/async_save.json
    OMP_NUM_THREADS=2 python benchmarks/async_save.py --quick     # a minute; prints only

One process trains one phase, with the loop, trainer and data of `pretrain`, on the bundled sample corpus. Blocks of 50
steps follow one another: one without a save, then one that begins with a save, of either way in turn, and so on. A
block's time includes all of its save, to the commit. Each block with a save is compared with the mean of the two
without one around it, so that a machine that becomes slower or faster does not count; the median over blocks is
reported. ``stall`` is the time for which the training thread stood still, over the block's time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from results import machine, print_table, save

from megatron_mmbert import parallel
from megatron_mmbert.checkpoint.async_saver import AsyncSaver
from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from megatron_mmbert.train.callbacks import Callback
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.trainer import Trainer, build_trainer

CORPUS = Path(__file__).resolve().parents[1] / "examples" / "sample_corpus" / "train"
SHAPE = {"num_layers": 6, "hidden_size": 256, "ffn_hidden_size": 384, "num_attention_heads": 4, "vocab_size": 8192}
TOKENS_PER_STEP, MICRO_BATCH = 2048, 1024
STEPS, QUICK_STEPS, WARM_STEPS = 50, 10, 5
WAYS = ["asynchronous", "asynchronous", "synchronous"] * 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="blocks of 10 steps; writes nothing")
    steps = QUICK_STEPS if parser.parse_args().quick else STEPS
    with tempfile.TemporaryDirectory(dir=".") as scratch:  # on a disk: /tmp may be in memory
        blocks, checkpoint_bytes = _train(Path(scratch), steps)
    figures = {"machine": machine("torch", "megatron-core"), "shape": SHAPE, "steps": steps} | summary(blocks)
    figures |= {"checkpoint_bytes": checkpoint_bytes, "blocks": blocks}
    print_table([(name.replace("_", " "), f"{value:,.4g}") for name, value in figures.items() if _is_number(value)])
    if steps == STEPS:
        print(f"wrote {save('async_save', figures)}")


class Blocks(Callback):
    """Ends a block and begins the next between two steps; a callback that notes what saves took."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self._trainer, self._steps = trainer, steps
        self._savers = {way: AsyncSaver(way == "asynchronous", trainer.checkpoints.saver._after) for way in set(WAYS)}
        self._plan = ["none"] + [name for way in WAYS for name in (way, "none")]
        self._first = WARM_STEPS * len(self._savers)
        self.done: list[dict[str, Any]] = []
        self._block: dict[str, Any] = {}

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._block |= {"stalled": stalled, "wrote": wrote}

    def __call__(self) -> bool:
        """For the loop's ``should_stop``."""
        taken = self._trainer.counters.step - self._first
        if taken < 0:
            if self._trainer.counters.step % WARM_STEPS == 0:  # plans and buffers are made at the first save
                self._save(sorted(self._savers)[self._trainer.counters.step // WARM_STEPS])
        elif taken % self._steps == 0:
            self._end()
            if taken == len(self._plan) * self._steps:
                return True
            self._begin(self._plan[taken // self._steps])
        return False

    def _begin(self, way: str) -> None:
        self._block = {"way": way, "stalled": 0.0, "wrote": 0.0}
        self._started, self._tokens = time.perf_counter(), self._trainer.counters.phase_tokens
        if way != "none":
            self._save(way)

    def _save(self, way: str) -> None:
        self._trainer.checkpoints.wait_for_save(self)
        self._trainer.checkpoints.saver = self._savers[way]
        self._trainer.save(self)

    def _end(self) -> None:
        self._trainer.checkpoints.wait_for_save(self)
        if self._block.get("way"):
            seconds = time.perf_counter() - self._started
            tokens = self._trainer.counters.phase_tokens - self._tokens
            self.done.append(self._block | {"seconds": seconds, "tokens_per_second": tokens / seconds})
            print(
                "  ".join(f"{k} {v:.4g}" if _is_number(v) else f"{v:12}" for k, v in self.done[-1].items()), flush=True
            )
        self._block = {}


def summary(blocks: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the blocks with a save, by way."""
    found = {}
    for way in dict.fromkeys(WAYS):
        places = [place for place, block in enumerate(blocks) if block["way"] == way]
        around = [(blocks[p - 1]["tokens_per_second"] + blocks[p + 1]["tokens_per_second"]) / 2 for p in places]
        costs = [1 - blocks[p]["tokens_per_second"] / rate for p, rate in zip(places, around, strict=True)]
        found[f"{way}_cost"] = statistics.median(costs)
        found[f"{way}_stall"] = statistics.median(blocks[p]["stalled"] / blocks[p]["seconds"] for p in places)
        found[f"{way}_wrote_seconds"] = statistics.median(blocks[p]["wrote"] for p in places)
    return found


def _train(scratch: Path, steps: int) -> tuple[list[dict[str, Any]], int]:
    recipe = _recipe(scratch)
    parallel.enable_cpu_mode()
    parallel.start(seed=recipe.seed)
    trainer = build_trainer(recipe, recipe.phases[0], scratch / "run")
    blocks = Blocks(trainer, steps)
    train(trainer, [blocks], blocks)
    trainer.close()
    files = [file for file in resolve(trainer.folder.checkpoints).iterdir() if file.is_file()]
    return blocks.done, sum(file.stat().st_size for file in files)


def _recipe(scratch: Path) -> Recipe:
    train_tokenizer([CORPUS], scratch / "tokenizer", Settings(vocab_size=SHAPE["vocab_size"]))
    preprocess(PreprocessJob(inputs=(CORPUS,), tokenizer=scratch / "tokenizer", output=scratch / "store", workers=1))
    batch = {"tokens_per_step": TOKENS_PER_STEP, "tokens_per_micro_batch": MICRO_BATCH}
    phase = {"name": "only", "tokens": 10**9, "mask_ratio": 0.3, "max_length": 512, "lr": 1e-4, "batch": batch}
    sections = {"tokenizer": {"path": str(scratch / "tokenizer")}, "data": {"stores": [str(scratch / "store")]}}
    shape = SHAPE | {"max_length": 512}
    return Recipe.model_validate({"name": "async-save", "model": shape, "phases": [phase], **sections})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


if __name__ == "__main__":
    main()
