"""The parts of a published corpus, by the names of its folders and files."""

from __future__ import annotations

import re

from megatron_mmbert.data.text.inputs.codes import code_of_file
from megatron_mmbert.data.text.inputs.folder_walk import FoundFile

SPLITS = ("train", "test", "validation", "removed")
"""``removed``: what the filters of FineWeb2 threw away."""

_WORDS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev", "heldout", "held_out"), "validation"
)
_IN_FILE_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(_WORDS)})(?=[-_.]|$)")


def is_split(folder: str) -> bool:
    """Tell if a folder is named by a split and by nothing else."""
    return folder in _WORDS or folder == "removed"


def split_of_folder(name: str) -> str:
    """Return the split of a folder's name; ``train`` if it names none."""
    return "removed" if name == "removed" or name.endswith("_removed") else _WORDS.get(name, "train")


def split_of(file: FoundFile, count_given: bool) -> str:
    """Return the split that a file's path names; any other weighs more than ``train``.

    ``count_given``: the name of the folder that the user gave counts too.
    """
    splits = [split_of_folder(name) for name in (file.folders if count_given else file.folders[1:])]
    word = _IN_FILE_NAME.search(file.path.name.removeprefix(code_of_file(file.path.name) or ""))
    splits.append(_WORDS[word.group(1)] if word else "train")
    others = [split for split in splits if split != "train"]
    return "removed" if "removed" in others else others[-1] if others else "train"
