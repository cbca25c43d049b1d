"""2,000 damaged checkpoints: flipped, truncated, missing, swapped, foreign and added files. Each is named and skipped,
the sound one before it is taken, and none of it is deleted."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from support.run_to_save import META, Run

from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.discovery import newest_valid, resolve, step_folder
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.utils.errors import UserError

KINDS = ("flip", "truncate", "empty", "missing", "swap", "foreign", "added", "unlisted", "grown")


@pytest.fixture(scope="module")
def pair(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phase's folder with two sound checkpoints of one run."""
    folder = tmp_path_factory.mktemp("damage")
    run = Run(seed=1)
    for step in (1, 2):
        run.train(1)
        training_state.save(
            step_folder(folder, step), META.model_copy(update={"step": step}), run.encoder, run.optimizer
        )
    return folder


def damage(folder: Path, sound: Path, other: Path, draw: random.Random) -> str:
    """Make ``folder`` a damaged copy of ``sound``; says what was done."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    files = sorted(folder.iterdir())
    kind, file = draw.choice(KINDS), draw.choice(files)
    content = file.read_bytes()
    if kind == "flip":
        at = draw.choice([n for n, byte in enumerate(content) if not chr(byte).isspace()])
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :])
    elif kind == "truncate":
        file.write_bytes(content[: draw.randrange(len(content))])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "missing":
        file.unlink()
    elif kind == "swap":
        one, two = draw.sample([f for f in files if f.name.startswith(("__", ".", "common"))], 2)
        first = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(first)
    elif kind == "foreign":
        file = draw.choice([f for f in files if f.read_bytes() != (other / f.name).read_bytes()])
        shutil.copy(other / file.name, file)
    elif kind == "added":
        (folder / "__9_9.distcp").write_bytes(content)
    elif kind == "grown":
        file.write_bytes(content + b"\0")
    else:  # a file changed and its line taken out of the list, as by a hand that knows it
        listed = folder / "checksums.json"
        known = json.loads(listed.read_text())
        name = draw.choice(sorted(known))
        del known[name]
        listed.write_text(json.dumps(known))
        file = folder / name
    return f"{kind} {file.name}"


def test_each_is_detected_and_named(pair: Path, tmp_path: Path) -> None:
    older, newer = step_folder(pair, 1), step_folder(pair, 2)
    phase = tmp_path / "checkpoints"
    shutil.copytree(older, step_folder(phase, 1))
    draw = random.Random(5)
    for number in range(2000):
        what = damage(step_folder(phase, 2), newer, older, draw)
        said: list[str] = []
        assert newest_valid(phase, said.append) == step_folder(phase, 1), (number, what)
        assert len(said) == 1 and said[0].startswith("warning: damaged checkpoint skipped: "), (number, what)
        assert str(step_folder(phase, 2)) in said[0], (number, what)
        assert step_folder(phase, 2).is_dir(), "never deleted"
        with pytest.raises(UserError):
            resolve(step_folder(phase, 2))


def test_loaded_in_spite_of_all_it_is_one_sentence(pair: Path, tmp_path: Path) -> None:
    """The way in behind the checksums: a reader that skipped them gets a sentence or right tensors, no traceback."""
    draw, run, refused = random.Random(6), Run(seed=2), 0
    for number in range(60):
        folder = tmp_path / "damaged"
        what = damage(folder, step_folder(pair, 2), step_folder(pair, 1), draw)
        try:
            training_state.load(folder, run.encoder, run.optimizer)
        except UserError as error:
            assert str(folder) in str(error), (number, what)
            refused += 1
    assert refused >= 15


def test_a_sound_one_has_no_problems(pair: Path) -> None:
    assert list(checksum_problems(step_folder(pair, 2))) == []
    assert newest_valid(pair) == step_folder(pair, 2)
