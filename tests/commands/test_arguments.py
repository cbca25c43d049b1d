"""Numbers on the command line: each flag has a range, and what is out of it is one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from megatron_mmbert import cli
from megatron_mmbert.commands.arguments import Real, Whole
from megatron_mmbert.utils.errors import UserError

BAD = ("nan", "inf", "1e308", "99999999999999999999999", "9" * 5000, "abc", "", "0x10")


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for name in cli.COMMANDS:
        parser = cli.Parser(prog=f"mmbert {name}", exit_on_error=False)
        cli.add_command(parser, name)
        yield name, parser


def numeric_flags() -> list[tuple[str, str, Whole | Real]]:
    return [
        (name, action.option_strings[0], action.type)
        for name, parser in parsers()
        for action in parser._actions
        if isinstance(action.type, Whole | Real)
    ]


def test_every_number_has_a_range() -> None:
    unbounded = [
        f"{name} {action.option_strings}"
        for name, parser in parsers()
        for action in parser._actions
        if action.type in (int, float, complex) or (action.type is None and isinstance(action.default, float))
    ]
    assert not unbounded
    assert len(numeric_flags()) > 30


@pytest.mark.parametrize(("command", "flag", "kind"), numeric_flags())
def test_out_of_range_is_one_sentence(command: str, flag: str, kind: Whole | Real) -> None:
    parser = cli.Parser(prog=f"mmbert {command}")
    parser.add_argument(flag, type=kind)
    outside = [str(kind.high * 2), *([str(kind.low - 1)] if kind.low > 0 else [])]
    for text in (*BAD, *outside, *(["0"] if getattr(kind, "above", False) else [])):
        with pytest.raises(UserError) as caught:
            parser.parse_args([f"{flag}={text}"])
        sentence = str(caught.value)
        assert sentence.startswith(f"{flag}") and "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        (Whole(), "32k", 32_000),
        (Whole(), "4_718_592", 4_718_592),
        (Whole(-5, 5), "-5", -5),
        (Real(0, 1), "1e-3", 0.001),
        (Real(0, 1e21, counts=True), "989T", 989e12),
        (Real(0, 1e21, counts=True), "0.5", 0.5),
        (Real(-1e6, 1e6), "-0.5", -0.5),
    ],
)
def test_numbers_as_people_write_them(kind: Whole | Real, text: str, number: float) -> None:
    assert kind(text) == number


@pytest.mark.parametrize(("kind", "text"), [(Whole(), "-1"), (Real(0, 1), "-0.1"), (Real(0, 1, above=True), "0")])
def test_below_the_range(kind: Whole | Real, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must"):
        kind(text)
