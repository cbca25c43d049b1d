"""Reading recipes: each kind of error names place, value, nearest key and remedy; presets and overrides merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_mmbert.config.loading import load_recipe, presets, save_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.utils.errors import UserError

PLAIN = """\
name: x
tokenizer: {path: tok}
model: {}
data:
  stores: [a]
phases:
  - name: one
    tokens: 1M
    mask_ratio: 0.3
    max_length: 128
    lr: 1e-3
    batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}
  - name: two
    tokens: 2M
    mask_ratio: 0.2
    max_length: 128
    lr: 1e-3
    batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}
"""
OVER_TINY = "preset: tiny\nname: x\ntokenizer: {path: tok}\ndata: {stores: [a]}\n"

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides)

    return load


@pytest.fixture
def refusal(load: Load, tmp_path: Path) -> Callable[..., str]:
    """The sentence with which a recipe is refused, its folder cut off."""

    def refusal(text: str, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            load(text, *overrides)
        sentence = str(caught.value).replace(f"{tmp_path}/", "")
        assert "\n" not in sentence
        return sentence

    return refusal


# (what is written instead of what, the sentence's start, a part of its remedy)
MISTAKES = {
    "unknown key": (
        "lr: 1e-3",
        "lrr: 1",
        "r.yaml:11: unknown key 'phases.one.lrr' (did you mean 'lr'?)",
        "known here: ",
    ),
    "unknown section": (
        "model: {}",
        "modell: {}",
        "r.yaml:3: unknown key 'modell' (did you mean 'model'?)",
        "tokenizer",
    ),
    "unknown key in a schedule": (
        *("0.3", "{form: 0.3, to: 0.1}"),
        *("r.yaml:9: unknown key 'phases.one.mask_ratio.form' (did you mean 'from'?)", "known here: from, to"),
    ),
    "unknown key in a table": (
        *("lr: 1e-3", "lr: 1\n    languages: {table: t, column: c, were: {}}"),
        *("r.yaml:12: unknown key 'phases.one.languages.were' (did you mean 'where'?)", "table, column, where"),
    ),
    "missing key": ("    lr: 1e-3\n", "", "r.yaml:7: 'phases.one.lr' is missing", "add it"),
    "missing section": ("model: {}\n", "", "r.yaml: 'model' is missing", "add it"),
    "half a schedule": ("0.3", "{from: 0.3}", "r.yaml:9: 'phases.one.mask_ratio.to' is missing", "add it"),
    "half a table": (
        *("lr: 1e-3", "lr: 1\n    languages: {table: t}"),
        *("r.yaml:12: 'phases.one.languages.column' is missing", "add it"),
    ),
    "no number": ("0.3", "abc", "r.yaml:9: phases.one.mask_ratio 'abc': ", "must be a number above 0"),
    "negative": ("lr: 1e-3", "lr: -1", "r.yaml:11: phases.one.lr -1: ", "above 0 and at most 10"),
    "no number but a yes": ("lr: 1e-3", "lr: yes", "r.yaml:11: phases.one.lr True: ", "must be a number above 0"),
    "infinite": ("lr: 1e-3", "lr: .inf", "r.yaml:11: phases.one.lr inf: ", "above 0 and at most 10"),
    "out of range": ("0.3", "3", "r.yaml:9: phases.one.mask_ratio 3: ", "above 0 and at most 1"),
    "temperature": ("lr: 1e-3", "lr: 1\n    temperature: 0", "r.yaml:12: phases.one.temperature 0: ", "above 0"),
    "count": ("1M", "1X", "r.yaml:8: phases.one.tokens '1X': ", "such as 4718592, 4_718_592, 600B or 2.3T"),
    "part of a token": ("1M", "'1.5'", "r.yaml:8: phases.one.tokens '1.5': ", "whole count"),
    "no count but a yes": ("1M", "yes", "r.yaml:8: phases.one.tokens True: ", "whole count"),
    "one language": ("lr: 1e-3", "lr: 1\n    languages: eng", "r.yaml:12: phases.one.languages 'eng': ", "a list of"),
    "Norwegian is a boolean": (
        *("lr: 1e-3", "lr: 1\n    languages: [eng, no]"),
        *("r.yaml:12: phases.one.languages.1 False: ", "valid string"),
    ),
    "language set": (
        *("lr: 1e-3", "lr: 1\n    languages: ['@mmbert_pretran']"),
        *("r.yaml:12: phases.one.languages: no language set '@mmbert_pretran'", "(did you mean '@mmbert_pretrain'?)"),
    ),
    "step no multiple": ("256", "257", "r.yaml:12: phases.one.batch: tokens_per_step 257 ", "multiple of"),
    "pack no multiple": (
        *("_batch: 128", "_batch: 100"),
        *("r.yaml:12: phases.one.batch: tokens_per_micro_batch 100 ", "multiple of 128"),
    ),
    "longer than a pack": (
        *("max_length: 128", "max_length: 129"),
        *("r.yaml:7: phases.one: max_length 129 must not exceed", "tokens_per_micro_batch 128"),
    ),
    "no room for text": ("max_length: 128", "max_length: 2", "r.yaml:10: phases.one.max_length 2: ", "between 3 and"),
    "schedule longer than the phase": (
        *("lr: 1e-3", "lr: 1\n    schedule: {warmup_tokens: 600k, decay_tokens: 600k}"),
        *("r.yaml:7: phases.one: schedule.warmup_tokens + schedule.decay_tokens", "must not exceed tokens"),
    ),
    "heads": ("model: {}", "model: {hidden_size: 7}", "r.yaml:3: model: hidden_size 7 ", "num_attention_heads 12"),
    "two of a name": ("name: two", "name: one", "r.yaml:13: phases.one: two phases are called 'one'", "its own name"),
    "name of a phase": ("name: one", "name: ../up", "r.yaml:7: phases.../up.name '../up': ", "match pattern"),
    "name is a list": ("name: one", "name: [one]", "r.yaml:7: phases.0.name: ", "valid string"),
    "start from a later phase": (
        *("name: one", "name: one\n    from: two"),
        *("r.yaml:8: phases.one.from: phase 'one' starts from 'two', which is no earlier phase", "choose 'scratch'"),
    ),
    "start from a stranger": (
        *("name: two", "name: two\n    from: onne"),
        *("r.yaml:14: phases.two.from: phase 'two' starts from 'onne'", "(did you mean 'one'?); choose 'scratch' or"),
    ),
    "longer than the model": (
        *("model: {}", "model: {max_length: 100}"),
        *("r.yaml:10: phases.one.max_length: phase 'one' has max_length 128, above model.max_length 100", "raise"),
    ),
    "merge of a stranger": (
        *("name: x", "name: x\nmerge: {base: one, models: [tow]}"),
        *("r.yaml:2: merge: merge names 'tow', which is no phase (did you mean 'two'?)", "choose from ['one', 'two']"),
    ),
    "no stores": ("stores: [a]", "stores: []", "r.yaml:5: data.stores: ", "at least 1 item"),
    "key twice": (
        "model: {}",
        "model: {}\nname: y",
        "r.yaml:4: not valid YAML (key 'name' is written twice)",
        "correct",
    ),
    "broken YAML": ("model: {}", "model: [}", "r.yaml:3: not valid YAML (", "correct that line"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_placed_and_explained(mistake: str, refusal: Callable[..., str]) -> None:
    right, wrong, start, remedy = MISTAKES[mistake]
    assert right in PLAIN
    sentence = refusal(PLAIN.replace(right, wrong, 1))
    assert sentence.startswith(start), sentence
    assert remedy in sentence[len(start) :], sentence


def test_files_that_are_no_recipe(tmp_path: Path, refusal: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: no such recipe; name an existing YAML file"):
        load_recipe(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match=r"not a YAML text file .*; name a recipe"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml: not a YAML text file"):
        load_recipe(tmp_path / "binary.yaml")
    for text in ("", "- a\n", "just words\n"):
        assert refusal(text) == "r.yaml: holds no recipe; write keys such as 'name:', 'model:', 'phases:'"


def test_an_unknown_preset_names_the_nearest(refusal: Callable[..., str]) -> None:
    sentence = refusal("name: x\npreset: tinny\n")
    assert sentence.startswith("r.yaml:2: no preset 'tinny' (did you mean 'tiny'?); choose from ")
    assert sentence.endswith(", ".join(presets()))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("phases.two.lr", "'phases.two.lr': not an override; write key.path=value"),
        ("=3", "'=3': not an override; write key.path=value"),
        ("seed=[1", "'seed=[1': the value is not valid YAML; quote it"),
        ("name.first=y", "name.first: 'name' holds a value, not a section; shorten the key"),
        ("phases.tow.lr=1", "phases.tow.lr: no item 'tow' (did you mean 'two'?); choose from one, two"),
        ("phases.7.lr=1", "phases.7.lr: no item '7'; choose from one, two"),
        ("phases.two.lr=-1", "override 'phases.two.lr=-1': phases.two.lr -1: must be above 0 and at most 10"),
        ("phases.1.lr=-1", "override 'phases.1.lr=-1': phases.two.lr -1: must be above 0 and at most 10"),
        ("data.workrs=3", "override 'data.workrs=3': unknown key 'data.workrs' (did you mean 'workers'?)"),
    ],
)
def test_wrong_overrides(override: str, sentence: str, refusal: Callable[..., str]) -> None:
    assert refusal(PLAIN, override).startswith(sentence)


def test_overrides_reach_items_by_name_and_by_number(load: Load) -> None:
    recipe = load(PLAIN, "phases.two.tokens=1B", "phases.0.lr=2e-3", "model.num_layers=3", "phases.two.boost={eng: 2}")
    assert [phase.tokens for phase in recipe.phases] == [10**6, 10**9]
    assert [phase.lr for phase in recipe.phases] == [2e-3, 1e-3]
    assert recipe.model.num_layers == 3
    assert recipe.phase("two").boost == {"eng": 2.0}


def test_the_last_override_wins_and_lies_over_file_and_preset(load: Load) -> None:
    text = OVER_TINY + "phases: [{name: midtrain, lr: 0.5}]\n"
    assert load(text, "phases.midtrain.lr=0.6", "phases.midtrain.lr=0.7").phase("midtrain").lr == 0.7


def test_phases_are_laid_over_the_preset_by_name(load: Load) -> None:
    preset = load(OVER_TINY)
    more = """\
phases:
  - name: midtrain
    lr: 0.5
    batch: {tokens_per_step: 16384}
    temperature: {from: 0.7, to: 0.5}
  - name: last
    from: decay_all
    tokens: 1M
    mask_ratio: 0.1
    max_length: 100
    lr: 1.0e-5
    batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}
"""
    recipe = load(OVER_TINY + more)
    assert [phase.name for phase in recipe.phases] == [*(phase.name for phase in preset.phases), "last"]
    changed = {"lr": 0.5, "temperature": LinearRamp(start=0.7, end=0.5)}
    batch = preset.phase("midtrain").batch.model_copy(update={"tokens_per_step": 16384})
    assert recipe.phase("midtrain") == preset.phase("midtrain").model_copy(update={**changed, "batch": batch})
    for name in ("pretrain", "decay_eng", "decay_all"):
        assert recipe.phase(name) == preset.phase(name)


def test_null_takes_back_what_the_preset_says(load: Load) -> None:
    text = OVER_TINY + "merge: null\nphases: [{name: decay_eng, boost: null, schedule: null}]\n"
    recipe = load(text)
    assert load(OVER_TINY).merge is not None
    assert recipe.merge is None
    assert recipe.phase("decay_eng").boost == {}
    assert recipe.phase("decay_eng").schedule.decay_tokens == 0


def test_a_phases_table_of_sources_is_replaced_whole(load: Load) -> None:
    text = OVER_TINY.replace("tiny", "mmbert_base-paper") + "phases: [{name: midtrain, sources: {mine: 1}}]\n"
    assert load(text).phase("midtrain").sources == {"mine": 1.0}


def test_a_phase_written_twice_over_a_preset_is_refused(refusal: Callable[..., str]) -> None:
    text = OVER_TINY + "phases:\n  - {name: pretrain, lr: 1}\n  - {name: pretrain, lr: 2}\n"
    assert refusal(text).startswith("r.yaml:7: phases.pretrain: two phases are called 'pretrain'")


def test_a_mistake_over_a_preset_is_placed_in_the_users_file(refusal: Callable[..., str]) -> None:
    assert refusal(OVER_TINY + "phases:\n  - name: midtrain\n    lr: -1\n").startswith(
        "r.yaml:7: phases.midtrain.lr -1:"
    )


@pytest.mark.parametrize("preset", presets())
def test_a_saved_recipe_reads_back_equal(preset: str, load: Load, tmp_path: Path) -> None:
    changed = "temperature: {from: 0.7, to: 0.5}, rope_theta_local: 10000, optimizer_state: reset"
    more = f"phases: [{{name: midtrain, {changed}}}]\nevaluation: {{stores: [held/out]}}\n"
    recipe = load(OVER_TINY.replace("tiny", preset) + more)
    save_recipe(recipe, tmp_path / "resolved.yaml")
    again = load_recipe(tmp_path / "resolved.yaml")
    assert again == recipe
    assert again.to_dict() == recipe.to_dict()
    written = {phase["name"]: phase for phase in recipe.to_dict()["phases"]}["midtrain"]
    assert written["temperature"] == {"from": 0.7, "to": 0.5}
    assert written["from"] == recipe.origin(recipe.phase("midtrain"))


def test_paths_are_also_taken_from_the_recipes_place(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they lead nowhere from the working directory, which decides else, and over overrides alone."""
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    for name in ("a", "b", "tok", "table.tsv"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = OVER_TINY.replace("[a]", "[a, b, not_yet]") + "phases:\n  - name: pretrain\n"
    recipe = load(text + "    languages: {table: table.tsv, column: c}\n", "evaluation.stores=[a]")
    assert recipe.data.stores == [tmp_path / "a", Path("b"), Path("not_yet")]
    assert recipe.tokenizer.path == tmp_path / "tok" and recipe.evaluation.stores == [Path("a")]
    languages = recipe.phase("pretrain").languages
    assert not isinstance(languages, list | str) and languages.table == tmp_path / "table.tsv"
