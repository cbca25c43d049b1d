"""A suite of one task for each head over made-up data in two or three languages, small enough for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.small_tokenizer import LETTERS

LANGUAGES = ("deu_Latn", "eng_Latn", "rus_Latn")
_TASKS = {
    "topic": """
title: which letter prevails
head: classification
splits: {train: "topic/{language}/train.jsonl", dev: "topic/{language}/dev.jsonl", test: "topic/{language}/test.jsonl"}
columns: {text: text, label: label}
labels: [e, t, a]
settings: {max_train: 50, max_dev: 20, max_test: 30, seeds: 2, source: eng_Latn}
published: [{model: other, score: 71.5, metric: accuracy, protocol: fine-tuned, source: a paper}]
""",
    "pairs": """
title: whether two texts are of one kind
head: pair
splits: {train: "pairs/{language}/train.jsonl", dev: "pairs/{language}/dev.jsonl", test: "pairs/{language}/test.jsonl"}
columns: {text: one, second: other, label: same}
label_names: {"0": "no", "1": "yes"}
labels: ["no", "yes"]
settings: {max_train: 40, max_dev: 20, max_test: 20, seeds: 1}
languages: [eng_Latn]
""",
    "tags": """
title: spans of capitals
head: tagging
metric: span_f1
splits: {train: "tags/{language}/train.jsonl", dev: "tags/{language}/dev.jsonl", test: "tags/{language}/test.jsonl"}
columns: {words: words, tags: tags}
settings: {max_train: 20, max_dev: 10, max_test: 10, seeds: 1, source: eng_Latn, in_language: false}
""",
    "sentences": """
title: sentence retrieval
head: bitext
splits: {test: "sentences/{language}.jsonl"}
columns: {text: text, target: eng}
""",
    "answers": """
title: passage retrieval
head: passages
splits: {test: "answers/{language}/questions.jsonl", passages: "answers/{language}/passages.jsonl"}
columns: {text: question, key: pid}
passage_columns: {text: text, key: pid}
settings: {source: eng_Latn}
""",
    "bits": """
title: bits per byte
head: bits
splits: {test: "topic/{language}/test.jsonl"}
columns: {text: text}
settings: {max_test: 3}
""",
}


def make_suite(folder: Path, tasks: Iterable[str] = tuple(_TASKS)) -> Path:
    """Write tasks, their data in ``folder/data``, and a suite of them, which is returned."""
    for number, name in enumerate(tasks):
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{_TASKS[name].strip()}\n", encoding="utf-8")
        _WRITERS[name](folder / "data", random.Random(number))
    suite = folder / "suite.yaml"
    listed = ", ".join(f"{name}.yaml" for name in tasks)
    suite.write_text(f"name: tiny\ntitle: of a test\ndata: [nowhere]\ntasks: [{listed}]\n", encoding="utf-8")
    return suite


def write_rows(path: Path, rows: Iterable[object]) -> None:
    """Write a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words(pick: random.Random, count: int = 6, favourite: str = "") -> str:
    """Return a text of words in letters that the tiny vocabulary has."""
    letters = LETTERS.replace(" ", "") + favourite * 8
    return " ".join("".join(pick.choices(letters, k=pick.randint(2, 6))) for _ in range(count))


def _topic(data: Path, pick: random.Random) -> None:
    for language in LANGUAGES:
        for split, count in (("train", 60), ("dev", 20), ("test", 30)):
            if split == "train" and language == "rus_Latn":
                continue
            labels = [pick.choice("eta") for _ in range(count)]
            rows = ({"text": words(pick, favourite=label), "label": label} for label in labels)
            write_rows(data / "topic" / language / f"{split}.jsonl", rows)


def _pairs(data: Path, pick: random.Random) -> None:
    def rows(count: int) -> Iterator[dict[str, object]]:
        for _ in range(count):
            one, same = pick.choice("eta"), pick.randint(0, 1)
            other = one if same else pick.choice("shm")
            yield {"one": words(pick, favourite=one), "other": words(pick, favourite=other), "same": same}

    for split, count in (("train", 60), ("dev", 20), ("test", 20)):
        write_rows(data / "pairs" / "eng_Latn" / f"{split}.jsonl", rows(count))


def _tags(data: Path, pick: random.Random) -> None:
    def rows(count: int) -> Iterator[dict[str, list[str]]]:
        for _ in range(count):
            text = words(pick, 8).split(" ")
            yield {"words": text, "tags": ["B-LOC" if "e" in word else "O" for word in text]}

    for language in LANGUAGES[:2]:
        for split, count in (("train", 30), ("dev", 10), ("test", 10)):
            write_rows(data / "tags" / language / f"{split}.jsonl", rows(count))


def _sentences(data: Path, pick: random.Random) -> None:
    for language in LANGUAGES[:2]:
        texts = [words(pick) for _ in range(12)]
        write_rows(data / "sentences" / f"{language}.jsonl", ({"text": text, "eng": f"{text} s"} for text in texts))


def _answers(data: Path, pick: random.Random) -> None:
    for language in LANGUAGES[:2]:
        passages = [words(pick, 20) for _ in range(8)]
        rows = [{"pid": number, "text": text} for number, text in enumerate(passages)]
        write_rows(data / "answers" / language / "passages.jsonl", rows)
        questions = [{"pid": number, "question": text[:30]} for number, text in enumerate(passages)]
        write_rows(data / "answers" / language / "questions.jsonl", questions)


_WRITERS = {
    "topic": _topic,
    "pairs": _pairs,
    "tags": _tags,
    "sentences": _sentences,
    "answers": _answers,
    "bits": _topic,
}
