"""Heads and baselines: scores that can be computed by hand, and what they depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.tiny_tasks import make_suite, write_rows

from megatron_mmbert.eval.probes.base import Outcome, Unit
from megatron_mmbert.eval.probes.heads import HEADS
from megatron_mmbert.eval.probes.ngrams import adaptive_bits, hashed_texts, hashed_words
from megatron_mmbert.eval.probes.retrieval import comparable
from megatron_mmbert.eval.probes.subjects import Features, NGrams
from megatron_mmbert.eval.probes.tagging import spans
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.loading import load_suite
from megatron_mmbert.utils.errors import UserError

pytest.importorskip("sklearn", reason="the extra [eval] is not installed")


class Letters:
    """A subject whose vectors are counts of letters: it can do the tiny tasks."""

    label, kind, identity = "letters", "model", "letters"
    strengths: tuple[float, ...] = (0.01, 0.1)

    def texts(self, texts: Sequence[str]) -> Features:
        return np.array([[text.count(letter) for letter in "etaoinshrdlu"] for text in texts], dtype=np.float32)

    def words(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> Features:
        return self.texts([word for words in sentences for word in words])

    def bits(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([4.0 * len(text) for text in texts])


def outcomes(folder: Path, task: str, subject: object = None, seeds: int = 1) -> dict[tuple[str, str, int], Outcome]:
    _, tasks = load_suite(str(make_suite(folder, [task])))
    data, head = TaskData(tasks[0], folder / "data"), HEADS[tasks[0].head]
    subject = subject or Letters()
    found = {}
    for unit in head.units(data, data.languages, seeds, subject.kind):  # type: ignore[attr-defined]
        for language, outcome in head.outcomes(unit, subject, data):  # type: ignore[arg-type]
            found[unit.setting, language, unit.seed] = outcome
            assert all(data.path(split, name).is_file() for split, name in head.reads(unit, language))
    return found


def test_classification(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "topic", seeds=2)
    assert {key[:2] for key in found} == {
        ("in-language", "deu_Latn"),
        ("in-language", "eng_Latn"),
        ("from eng_Latn", "deu_Latn"),
        ("from eng_Latn", "rus_Latn"),
    }
    for outcome in found.values():
        assert outcome.score > 0.8
        assert outcome.chance == pytest.approx(1 / 3)
        assert outcome.majority is not None
        assert 0.1 < outcome.majority.mean() < 0.7
        assert outcome.about["C"] in Letters.strengths
        assert outcome.about["train"] == 40


def test_ngrams_do_it_too(tmp_path: Path) -> None:
    assert all(outcome.score > 0.6 for outcome in outcomes(tmp_path, "topic", NGrams()).values())
    assert all(outcome.score > 0.5 for outcome in outcomes(tmp_path, "pairs", NGrams()).values())


def test_pairs(tmp_path: Path) -> None:
    (outcome,) = outcomes(tmp_path, "pairs").values()
    assert outcome.score >= 0.6
    assert outcome.chance == 0.5


def test_a_label_that_training_has_not_is_wrong_and_said(tmp_path: Path) -> None:
    _, tasks = load_suite(str(make_suite(tmp_path, ["topic"])))
    data = TaskData(tasks[0], tmp_path / "data")
    rows = [
        {"text": row["text"], "label": "e" if row["label"] == "t" else row["label"]}
        for row in data.examples("train", "eng_Latn")
    ]
    write_rows(data.path("train", "eng_Latn"), rows)
    data = TaskData(tasks[0], tmp_path / "data")
    ((_, outcome),) = HEADS["classification"].outcomes(
        Unit("in-language", 0, ("eng_Latn",), "eng_Latn"), Letters(), data
    )
    gold = [row["label"] for row in data.examples("test", "eng_Latn")]
    assert outcome.about["labels not in the training sample"] == ["t"]
    assert not outcome.numerators[np.array(gold) == "t"].any()
    write_rows(data.path("train", "eng_Latn"), [{**row, "label": "e"} for row in rows])
    with pytest.raises(UserError, match=r"all 40 training examples have label 'e'"):
        list(
            HEADS["classification"].outcomes(
                Unit("in-language", 0, ("eng_Latn",), "eng_Latn"), Letters(), TaskData(tasks[0], tmp_path / "data")
            )
        )


def test_tagging(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "tags")
    assert set(found) == {
        ("from eng_Latn, prefix space", "deu_Latn", 0),
        ("from eng_Latn, no prefix space", "deu_Latn", 0),
    }
    assert all(outcome.score > 0.9 for outcome in found.values())
    (outcome,) = outcomes(tmp_path, "tags", NGrams()).values()
    assert outcome.majority is not None
    assert not outcome.majority.any()


def test_the_answer_is_wrong_where_the_training_is_of_other_tags(tmp_path: Path) -> None:
    first = outcomes(tmp_path, "tags")["from eng_Latn, prefix space", "deu_Latn", 0]
    assert first.denominators.sum() > 0
    assert (first.numerators <= first.denominators).all()


def test_bitext(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "sentences")
    assert {key[0] for key in found} == {"to eng", "from eng"}
    for outcome in found.values():
        assert outcome.score > 0.8
        assert outcome.chance == pytest.approx(1 / 12)


def test_equal_candidates_are_a_guess(tmp_path: Path) -> None:
    class Constant(Letters):
        def texts(self, texts: Sequence[str]) -> Features:
            return np.ones((len(texts), 4), dtype=np.float32)

    for outcome in outcomes(tmp_path, "sentences", Constant()).values():
        assert outcome.score == pytest.approx(1 / 12)
    for outcome in outcomes(tmp_path, "answers", Constant()).values():
        assert outcome.score == pytest.approx(1 / 4.5)  # rank (8 + 1) / 2


def test_passages(tmp_path: Path) -> None:
    found = outcomes(tmp_path, "answers")
    assert {key[:2] for key in found} == {
        ("in-language", "deu_Latn"),
        ("in-language", "eng_Latn"),
        ("to eng_Latn", "deu_Latn"),
    }
    assert found["in-language", "eng_Latn", 0].score > 0.5
    assert found["in-language", "eng_Latn", 0].chance == pytest.approx(sum(1 / rank for rank in range(1, 9)) / 8)
    _, tasks = load_suite(str(make_suite(tmp_path, ["answers"])))
    data = TaskData(tasks[0], tmp_path / "data")
    write_rows(data.path("test", "eng_Latn"), [{"pid": 99, "question": "a"}] * 2)
    with pytest.raises(UserError, match=r"passages.jsonl: no passage '99', which a question of 'eng_Latn' asks for"):
        list(HEADS["passages"].outcomes(Unit("in-language", 0, ("eng_Latn",), "eng_Latn"), Letters(), data))


def test_bits(tmp_path: Path) -> None:
    for outcome in outcomes(tmp_path, "bits").values():
        assert outcome.score == 4
        assert outcome.chance == 8


def test_adaptive_bytes() -> None:
    """The first byte is a guess among 256; a text read twice is cheap the second time, and order matters."""
    assert adaptive_bits(["a"])[0] == pytest.approx(8)
    once, again = adaptive_bits(["the cat sat on the mat"] * 2)
    assert again < once / 3
    assert adaptive_bits(["ab"])[0] == pytest.approx(8 - math.log2(1 / 512))
    assert adaptive_bits([""])[0] == 0


def test_ngrams_are_of_length_one() -> None:
    found = hashed_texts(["one two", "", "漢字"])
    np.testing.assert_allclose(
        np.sqrt(found.multiply(found).sum(1)).A1
        if hasattr(found, "A1")
        else np.asarray(np.sqrt(found.multiply(found).sum(1))).ravel(),
        [1, 0, 1],
        atol=1e-6,
    )
    near, far = hashed_words([["cat", "sat"], ["cats", "sat"], ["dog", "ran"]])[[0, 2, 4]], None
    assert far is None
    cosines = (near @ near.T).toarray()
    assert cosines[0, 1] > cosines[0, 2]


def test_centring() -> None:
    vectors = np.array([[1.0, 5.0], [-1.0, 5.0]], dtype=np.float32)
    np.testing.assert_allclose(comparable(vectors, True), [[1, 0], [-1, 0]], atol=1e-6)
    assert comparable(vectors, False)[0, 1] > 0.9


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", {("PER", 1, 3)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
        ("I-LOC I-LOC O I-ORG", {("LOC", 0, 2), ("ORG", 3, 4)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("O O", set()),
    ],
)
def test_spans(tags: str, expected: set[tuple[str, int, int]]) -> None:
    assert spans(tags.split(" ")) == expected
