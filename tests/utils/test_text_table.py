"""Tables that line up whatever they hold."""

from __future__ import annotations

from megatron_mmbert.utils.text_table import LEFT_TO_RIGHT_MARK, display_width, pad, table


def test_width_counts_columns_of_a_terminal() -> None:
    assert display_width("cat") == 3
    assert display_width("日本") == 4
    assert display_width("ｶﾅ") == 2  # halfwidth
    assert display_width("e\u0301") == 1  # combining accent
    assert display_width("ก็") == 1  # a Thai consonant under a sign
    assert display_width("a\u200bb") == 2


def test_padding_goes_by_columns() -> None:
    assert pad("日本", 6) == "日本  "
    assert pad("日本", 6, right=True) == "  日本"
    assert pad("שלום", 5) == f"שלום{LEFT_TO_RIGHT_MARK} "


def test_columns_start_at_the_same_place_in_every_row() -> None:
    text = table(["word", "two\nlines"], [["日本語", "1.5"], ["cat", "10.25"], ["ก็", "3"]], [False, True])
    lines = text.splitlines()
    assert lines[0].split() == ["two"] and lines[1].split() == ["word", "lines"]
    assert lines[2] == "------  -----"
    assert {display_width(line) for line in lines[1:]} == {len("------  -----")}
