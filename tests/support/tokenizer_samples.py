"""Small texts of several scripts, texts meant to break a tokenizer, and how to run the tool on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT

VOCAB_SIZE = 600
CODE = "def area(width, height):\n    if width < 0:\n        raise ValueError(width)\n    return width * height\n\n\n"
TEXTS = {
    "eng_Latn": [
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
        "and should act towards one another in a spirit of brotherhood.\n\nEveryone has the right to life, liberty and "
        "the security of person. No one shall be held in slavery; slavery and the slave trade shall be prohibited.",
        "Everyone has the right to recognition everywhere as a person before the law, in 1948 and in 2026.",
    ],
    "rus_Cyrl": [
        "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью и "
        "должны поступать в отношении друг друга в духе братства.\nКаждый человек имеет право на жизнь, на свободу.",
    ],
    "cmn_Hani": [
        "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。人人有权享有生命、自由和人身安全。"
    ],
    "arb_Arab": [
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل "
        "بعضهم بعضا بروح الإخاء."
    ],
    "code": [CODE * 6],
}
HOSTILE = [
    "",
    " ",
    "   ",
    "\n",
    " leading and trailing  ",
    "two  spaces   three    four\n\n\nlines\t\ttabs\r\nend\n",
    " \n \t \n",
    "\n" * 37 + " " * 41 + "\t" * 23 + "x",
    "12345 6.78 ٣٤",
    "😀 𐍈 ꙮ ᚠ \u200d\ufe0f e\u0301 \u00a0\u3000\ufeff\ufffd",
    "<mask> <bos><eos> <pad><unk> <0x41> <s>",
    "a▁b ▁▁ ▁",
    "▅ ⁇ \x00 \x1b",
    "hahahahahaha aaaaaaaaaaaaaaa ababababab thethethethe",
]


def write_corpus(folder: Path, texts: dict[str, list[str]]) -> Path:
    """One ``LANGUAGE.jsonl`` per entry."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, documents in texts.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents]
        (folder / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``python tools/train_tokenizer.py`` with ``arguments``."""
    command = [sys.executable, str(ROOT / "tools" / "train_tokenizer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
