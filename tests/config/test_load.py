"""Settings files: values, lines, overrides, and messages that name the mistake and the fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from wmtp.algorithms.critic import Critic
from wmtp.config import yaml_text
from wmtp.config.check import check_file
from wmtp.config.environment import Environment
from wmtp.config.load import dump, load_document, load_environment, load_recipe
from wmtp.config.model_sections import TokenizerSection
from wmtp.config.options import resolve_options
from wmtp.config.recipe import AlgorithmSection, EvaluationSection, Recipe
from wmtp.config.secrets import hidden, names_secret, without_secrets
from wmtp.config.section import Section
from wmtp.errors import ConfigError

RECIPE = """\
# A recipe for tests.
name: small
algorithm:
  name: mtp-baseline
model:
  architecture:
    hidden_size: 64
    intermediate_size: 128
    num_layers: 2
    num_attention_heads: 4
tokenizer:
  vocab_size: 300
data:
  source: minicode
optimization:
  learning_rate: 3e-4
  global_batch: 8
  steps: 10
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes `recipe.yaml` into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        return Path("recipe.yaml")

    return write


def message(call: Callable[..., object], *arguments: Any) -> str:
    """Return the message of the `ConfigError` that a call raises."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


class Options(Section):
    """Options of a made-up algorithm."""

    keep: float = Field(0.6, gt=0, le=1, description="Share of targets that are kept.")


# ---- reading ------------------------------------------------------------------------------------


def test_a_recipe_and_its_lines(write: Write) -> None:
    recipe, document = load_recipe(write(RECIPE))
    assert recipe.model.architecture is not None
    assert recipe.model.architecture.hidden_size == 64
    assert recipe.optimization.learning_rate == 3e-4
    assert document.lines["model", "architecture", "num_layers"] == 9
    assert document.where(("data", "source")) == "recipe.yaml:14 data.source"
    assert document.where(("data", "missing")) == "recipe.yaml:13 data.missing"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3E4", 3e4),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1f", 31),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
    ],
)
def test_scalars_are_typed_as_yaml_1_2_types_them(text: str, value: object) -> None:
    found = yaml_text.parse(f"a: {text}", "x").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_and_aliases() -> None:
    text = (
        "base: &base {a: 1, b: 2}\nchild: &child\n  <<: *base\n  b: 3\nsame: *base\n"
        "two: {<<: [*child, *base], c: 4}\n"
    )
    parsed = yaml_text.parse(text, "x")
    assert parsed.problems == []
    assert parsed.data["child"] == {"a": 1, "b": 3}
    assert parsed.data["same"] == {"a": 1, "b": 2}
    assert parsed.data["two"] == {"a": 1, "b": 3, "c": 4}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(values)
@example({"\x85": "a\u2028b\u2029"})
def test_what_is_dumped_is_read_back(value: object) -> None:
    parsed = yaml_text.parse(yaml_text.dump({"value": value}), "x")
    assert parsed.problems == []
    assert parsed.data == {"value": value}


@pytest.mark.parametrize("text", ["1e-3", "no", "${HOME}", "$${x}", "2026-01-31", "0x1f", "<<"])
def test_text_that_looks_like_something_else_survives(text: str) -> None:
    assert yaml_text.parse(yaml_text.dump({"a": text}), "x").data == {"a": text}


def test_dump_round_trips_a_recipe_and_an_environment(write: Write) -> None:
    recipe, _ = load_recipe(write(RECIPE.replace("source: minicode", "source: x\n  depth: [1, 2]")))
    assert recipe.data.options == {"depth": [1, 2]}
    assert load_recipe(write(dump(recipe)))[0] == recipe
    environment = load_environment(None, ["micro_batch=4", "tracking.enabled=false"])
    assert load_environment(write(dump(environment))) == environment


# ---- environment variables ----------------------------------------------------------------------


def test_variables_are_typed_after_substitution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "5")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    text = (
        "a: ${N}\nb: ${UNSET:-4}\nc: '${N}'\nd: run-${N}/${UNSET:-x}\ne: ${EMPTY:-7}\n"
        "f: ${EMPTY}\ng: [$${N}, '${UNSET:-}']\nh: ${UNSET:-true}\n"
    )
    parsed = yaml_text.parse(text.replace("[$${N}, ", "['$${N}', "), "x")
    assert parsed.problems == []
    assert parsed.data == {
        "a": 5, "b": 4, "c": "5", "d": "run-5/x", "e": 7, "f": None, "g": ["${N}", ""], "h": True,
    }  # fmt: skip


def test_a_variable_that_is_not_set_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    text = message(load_document, write("a: 1\nb: ${RUNS}/x\nc: ${1}\n"))
    assert text.splitlines() == [
        "recipe.yaml:2 b: the environment variable RUNS is not set. Set it, or write "
        "${RUNS:-default}.",
        "recipe.yaml:3 c: expected ${NAME} or ${NAME:-default}; write $${ for a plain ${.",
    ]


# ---- mistakes -----------------------------------------------------------------------------------


def bomb(first: str, level: str, num_levels: int) -> str:
    """Return YAML in which each level repeats aliases of the one before."""
    levels = [f"a{i}: &a{i} {level.format(f'*a{i - 1}')}\n" for i in range(1, num_levels + 1)]
    return f"a0: &a0 {first}\n" + "".join(levels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", r"recipe\.yaml:2: not valid YAML: "),
        ("a:\n\t- 1\n", r"recipe\.yaml:2: not valid YAML: "),
        ("a: \x00\n", r"recipe\.yaml: not valid YAML: "),
        ("- 1\n", r"recipe\.yaml: expected `key: value` lines, found list\."),
        ("a: 1\na: 2\n", r"recipe\.yaml:2 a: given twice, first in line 1\. Remove one\."),
        ("a: &x [*x]\n", r"recipe\.yaml:1 a\.0: an alias refers to what contains it"),
        ("? [1]\n: 2\n", r"recipe\.yaml:1: a key must be a plain name\."),
        ("a: !!python/name:os.system x\n", r"recipe\.yaml:1 a: cannot be read: "),
        ("a: {<<: 5}\n", r"recipe\.yaml:1 a\.<<: expected an alias of a group of settings\."),
        ("a: &a {<<: *a}\n", r"recipe\.yaml: nested too deeply\."),
        ("a: " + "[" * 2000, r"recipe\.yaml: nested too deeply\."),
        ("a: " + "[" * 400 + "]" * 400, r"recipe\.yaml: nested too deeply\."),
        (f"a: [{'1, ' * 10_000}]\n", r"recipe\.yaml: more than 10,000 keys and values, "),
        (bomb("[1]", "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", 9), "more than 10,000"),
        (bomb("{x: 1}", "{{<<: [{0}, {0}]}}", 25), "more than 10,000"),
    ],
)
def test_broken_files(write: Write, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_document(write(text))


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    write("").with_name("rho1.yaml").touch()
    assert message(load_document, "rho.yaml") == (
        "rho.yaml: no such file. Did you mean 'rho1.yaml'? Check the path."
    )
    assert message(load_document, tmp_path) == (
        f"{tmp_path}: cannot be read (Is a directory). Check the path."
    )
    Path("latin.yaml").write_bytes("a: ü".encode("latin-1"))
    assert "latin.yaml: not UTF-8 text" in message(load_document, "latin.yaml")


MISTAKES = {
    "hidden_size: 64": ("hidden_size: wide", "7 model.architecture.hidden_size: expected a whole "
                        "number, found 'wide'. Meaning: Width D."),
    "global_batch: 8": ("global_batch: 0", "17 optimization.global_batch: 0 is not above 0. "
                        "Meaning: Sequences per optimizer step, over all devices."),
    "  steps: 10": ("  stepss: 10", "18 optimization.stepss: unknown key. Did you mean 'steps'? "
                    "Known: learning_rate, schedule, warmup_share, weight_decay, adam_beta1, "
                    "adam_beta2, max_grad_norm, head_coefficients, global_batch, steps, epochs, tokens."),
    "vocab_size: 300": ("vocab_size: 2.5", "12 tokenizer.vocab_size: expected a whole number, "
                        "found 2.5. Meaning: Train a byte-level BPE of this size on the training "
                        "data."),
    "  source: minicode": ("  split: x", "13 data: give exactly one of source and mixture; "
                           "`wmtp list` shows the sources."),
    "name: small": ("name: a b", "2 name: 'a b': String should match pattern "
                    "'^[A-Za-z0-9][A-Za-z0-9._-]*$'. Meaning: Names the run folder."),
    "num_layers: 2": ("num_layers: 1", "9 model.architecture.num_layers: 1 is below 2. Meaning: "
                      "Decoder layers, those of head 0 included."),
    "learning_rate: 3e-4": ("learning_rate: .inf", "16 optimization.learning_rate: expected a "
                            "finite number, found inf. Meaning: Peak learning rate."),
}  # fmt: skip


@pytest.mark.parametrize("right", MISTAKES)
def test_each_mistake_names_line_field_and_fix(write: Write, right: str) -> None:
    wrong, expected = MISTAKES[right]
    found = message(load_recipe, write(RECIPE.replace(right, wrong))).splitlines()
    assert f"recipe.yaml:{expected}" in found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed=true", "a whole number, found True"),
        ("seed='1'", "a whole number, found '1'"),
        ("seed=1.5", "a whole number, found 1.5"),
        ("optimization.learning_rate=true", "a number, found True"),
        ("optimization.learning_rate='1'", "a number, found '1'"),
        ("model.architecture.tie_embeddings=1", "true or false, found 1"),
        ("model.architecture.tie_embeddings=no", "true or false, found 'no'"),
    ],
)
def test_values_of_another_type_are_refused(write: Write, setting: str, expected: str) -> None:
    found = message(load_recipe, write(RECIPE), [setting])
    assert found.startswith(f"--set {setting}: expected {expected}. Meaning: ")


def test_whole_numbers_are_whole_however_they_are_written(write: Write) -> None:
    settings = ["optimization.learning_rate=1", "optimization.steps=1e3", "seed=2.0"]
    recipe, _ = load_recipe(write(RECIPE), settings)
    optimization = recipe.optimization
    assert (optimization.learning_rate, optimization.steps, recipe.seed) == (1.0, 1000, 2)
    assert (type(optimization.learning_rate), type(optimization.steps)) == (float, int)


def test_null_for_a_group_with_defaults_means_these(write: Write) -> None:
    changes = ["model.architecture=null", "model.pretrained=x", "tokenizer=null", "evaluation=null"]
    recipe, _ = load_recipe(write(RECIPE), changes)
    assert (recipe.tokenizer, recipe.evaluation) == (TokenizerSection(), EvaluationSection())
    assert load_environment(None, ["sandbox=null", "tracking=null"]) == Environment()
    assert Critic.Config.model_validate({"value_phase": None}) == Critic.Config()
    assert message(load_recipe, write(RECIPE), ["data=null"]).startswith(
        "--set data=null: expected"
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.architecture.max_positions=511", "model.architecture.max_positions 511 is below "
         "data.max_length 512. Raise the one or lower the other."),
        ("model.num_heads=512", "model.num_heads 512 is not below data.max_length 512: the last "
         "head would never have a target. Lower the one or raise the other."),
    ],
)  # fmt: skip
def test_lengths_that_do_not_fit(write: Write, setting: str, expected: str) -> None:
    assert message(load_recipe, write(RECIPE), [setting]) == f"recipe.yaml: {expected}"


def test_an_unknown_protocol_is_named_with_its_line(write: Write) -> None:
    text = f"{RECIPE}evaluation:\n  protocol: greddy\n"
    assert message(load_recipe, write(text)) == (
        "recipe.yaml:20 evaluation.protocol: unknown protocol 'greddy'. Did you mean 'greedy'? "
        "Known: greedy, notes, sample-10, meta-mtp."
    )


def test_other_mistakes(write: Write) -> None:
    text = RECIPE.replace("steps: 10", "schedule: cosin\n  steps: 4\n  epochs: 2")
    assert message(load_recipe, write(text)) == (
        "recipe.yaml:18 optimization.schedule: 'cosin' is not 'cosine', 'linear' or 'constant'. "
        "Did you mean 'cosine'? Meaning: Decay after the warm-up."
    )
    text = RECIPE.replace("steps: 10", "steps: 4\n  epochs: 2")
    assert message(load_recipe, write(text)) == (
        "recipe.yaml:15 optimization: give exactly one of steps, epochs and tokens "
        "(found ['steps', 'epochs'])."
    )
    text = RECIPE.replace("tokenizer:\n  vocab_size: 300\n", "")
    assert message(load_recipe, write(text)).startswith("recipe.yaml: a model from scratch needs")
    assert message(load_environment, write("sandbox: on\n")) == (
        "recipe.yaml:1 sandbox: expected a group of `key: value` lines, found 'on'."
    )


def test_all_mistakes_of_a_file_come_at_once(write: Write) -> None:
    text = RECIPE
    for right, (wrong, _) in MISTAKES.items():
        text = text.replace(right, wrong)
    found = message(load_recipe, write(text)).splitlines()
    assert {f"recipe.yaml:{expected}" for _, expected in MISTAKES.values()} <= set(found)


def test_branches_of_a_union_are_one_mistake(write: Write) -> None:
    class Union(Section):
        size: int | list[int] = Field(1, description="How many.")

    assert message(load_document(write("size: {}\n")).validate, Union) == (
        "recipe.yaml:1 size: expected a whole number, found {}. Meaning: How many. "
        "Or: expected a list, found {}. Meaning: How many."
    )


# ---- options of plugins -------------------------------------------------------------------------


def test_options_of_an_open_section(write: Write) -> None:
    document = load_document(write("algorithm:\n  name: x\n  keep: 1.7\n"))
    section = AlgorithmSection(**document.data["algorithm"])
    assert message(document.validate_options, section, Options, ("algorithm",)) == (
        "recipe.yaml:3 algorithm.keep: 1.7 is above 1.0. Meaning: Share of targets that are kept."
    )
    document = load_document(write("algorithm:\n  name: x\n  kep: 1.7\n"))
    section = AlgorithmSection(**document.data["algorithm"])
    assert message(document.validate_options, section, Options, ("algorithm",)) == (
        "recipe.yaml:3 algorithm.kep: unknown key. Did you mean 'keep'? Known: name, keep."
    )
    document.override(["algorithm.keep=0.25"])
    del document.data["algorithm"]["kep"]
    section = AlgorithmSection(**document.data["algorithm"])
    assert document.validate_options(section, Options, ("algorithm",)) == Options(keep=0.25)


def test_options_of_what_a_recipe_names(write: Write) -> None:
    text = RECIPE.replace("name: mtp-baseline", "name: mtp-base").replace("minicode", "mincode")
    recipe, document = load_recipe(write(text + "evaluation:\n  limits: 3\n"))
    found = message(resolve_options, recipe, document).splitlines()
    assert found[0].startswith("recipe.yaml:4 algorithm.name: unknown algorithm 'mtp-base'. Did")
    assert found[1].startswith("recipe.yaml:14 data.source: unknown data source 'mincode'. Did")
    assert found[2].startswith("recipe.yaml:20 evaluation.limits: unknown key. Did you mean 'limit")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (
            "{name: shuffled, of: {name: inverted, of: {name: focal}}}",
            "algorithm.of.name: inverted moves weights that would be moved again here",
        ),
        (
            "{name: hybrid, first: {name: critic-wmtp}, second: {name: shuffled, of: "
            "{name: critic-wmtp}}}",
            "algorithm.second: both schemes need values",
        ),
        ("{name: shuffled, of: {name: rho1-wmtp}}", "rho1-wmtp.reference: missing"),
    ],
)
def test_schemes_that_do_not_go_together_are_found_by_a_check(
    write: Write, algorithm: str, expected: str
) -> None:
    """`wmtp check` says it, before anything is trained."""
    path = write(RECIPE.replace("algorithm:\n  name: mtp-baseline", f"algorithm: {algorithm}"))
    found = message(check_file, path)
    assert found.startswith("recipe.yaml")
    assert expected in found


# ---- overrides ----------------------------------------------------------------------------------


def test_overrides_are_typed_and_create_sections(write: Write) -> None:
    recipe, document = load_recipe(
        write(RECIPE),
        ["optimization.learning_rate=1e-3", "evaluation.benchmark=mbpp", "data.depth=[1, 2]",
         "seed=1", "seed=2", "name=a=b".replace("=b", "-b")],
    )  # fmt: skip
    assert recipe.optimization.learning_rate == 1e-3
    assert recipe.evaluation.benchmark == "mbpp"
    assert recipe.data.options == {"depth": [1, 2]}
    assert (recipe.seed, recipe.name) == (2, "a-b")
    assert document.where(("seed",)) == "--set seed=2"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("optimization.steps=0", "--set optimization.steps=0: 0 is not above 0. Meaning: Budget"),
        ("optimization.step=1", "--set optimization.step=1: unknown key. Did you mean 'steps'?"),
        ("optimisation.steps=1", "--set optimisation.steps=1: unknown key. Did you mean 'optimiz"),
        ("model.architecture={hidden_size: 0}", "--set model.architecture={hidden_size: 0} "
         "(model.architecture.hidden_size): 0 is not above 0."),
        ("name.x=1", "--set name.x=1: name is not a group of settings. Set name itself."),
        ("steps", "--set steps: write it as --set section.key=value."),
        ("a..b=1", "--set a..b: write it as --set section.key=value."),
        ("data.path=[1", "--set data.path:1: not valid YAML: "),
        ("data={a: 1, a: 2}", "--set data:1 a: given twice"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(write: Write, setting: str, expected: str) -> None:
    lines = message(load_recipe, write(RECIPE), [setting]).splitlines()
    assert any(line.startswith(expected) for line in lines), lines


def test_environment_overrides() -> None:
    assert load_environment() == Environment()
    assert load_environment(None, ["device=cpu"]).device == "cpu"
    assert message(load_environment, None, ["devise=cpu"]).startswith(
        "--set-env devise=cpu: unknown key. Did you mean 'device'?"
    )


# ---- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["password", "hf_token", "token", "api_key", "apiKey", "key", "secret", "aws_secret_access_key",
     "data.hub_token", "db-password", "client_secret"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize(
    "name",
    ["tokens", "tokenizer", "key_value", "num_key_value_heads", "eos_token", "pad_token",
     "max_new_tokens", "task_key", "keys", "keep", "token_id", "1", ""],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not names_secret(name)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("data:\n  hub_token: hunter2\n", []),
        ("a:\n  - {password: hunter2}\n", []),
        ("uri: https://me:hunter2@host/x\n", []),
        ("uri: https://hunter2@host/x\n", []),
        ("uri: https://host/x?a=1&api_key=hunter2\n", []),
        ("a: run-${HF_TOKEN}\n", []),
        ("a: '${HF_TOKEN:-hunter2}'\n", []),
        ("a: 1\n", ["data.token=hunter2"]),
        ("a: 1\n", ["data={token: hunter2}"]),
        ("a: 1\n", ["tracking.uri=https://me:hunter2@host"]),
    ],
)
def test_secrets_are_refused_and_never_shown(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, settings: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    found = message(load_document, write(text), settings)
    assert "looks like a password or token" in found
    assert "environment variable" in found
    assert "hunter2" not in found


def test_secrets_without_a_file_are_refused_too() -> None:
    found = message(load_environment, None, ["tracking.uri=https://hunter2@host?token=hunter2"])
    assert found.startswith("--set-env tracking.uri=...: looks like a password or token")


@pytest.mark.parametrize(
    "value", ["sqlite:///a@b/mlflow.db", "file:///a/b@c", "a@b", "https://host/x?page=1&tokens=2"]
)
def test_text_without_a_secret(value: str) -> None:
    assert not hidden("uri", value)


def test_command_lines_lose_their_secrets() -> None:
    arguments = [
        "train",
        "--set",
        "data.token=a",
        "--api-key",
        "b",
        "--set",
        "seed=1",
        "s3://u:c@d",
    ]
    assert without_secrets(arguments) == [
        "train", "--set", "data.token=...", "--api-key", "...", "--set", "seed=1", "...",
    ]  # fmt: skip


def test_every_recipe_field_has_a_meaning() -> None:
    for model in (Recipe, Environment):
        for section in model.model_json_schema()["$defs"].values():
            assert all("description" in field for field in section["properties"].values())


# ---- mixtures, pairs and curricula --------------------------------------------------------------


MIXTURE = """mixture:
  - {source: minicode, weight: 0.7, num_problems: 20}
  - {source: python-source, weight: 0.3}"""


def with_data(text: str) -> str:
    return RECIPE.replace("source: minicode", text.replace("\n", "\n  "))


def test_a_mixture_is_read_and_its_options_are_checked(write: Write) -> None:
    recipe, document = load_recipe(write(with_data(MIXTURE)))
    assert recipe.data.label == "minicode 0.7 + python-source 0.3"
    first, second = resolve_options(recipe, document).data
    assert (first.num_problems, second.path) == (20, None)
    assert load_recipe(write(dump(recipe)))[0] == recipe
    wrong, document = load_recipe(write(with_data(MIXTURE.replace("num_p", "number_of_p"))))
    with pytest.raises(ConfigError, match=r"15 data\.mixture\.0\.number_of_problems: unknown key"):
        resolve_options(wrong, document)
    unknown, document = load_recipe(write(with_data(MIXTURE.replace("minicode", "minicod"))))
    with pytest.raises(ConfigError, match=r"15 data\.mixture\.0\.source: .*'minicode'"):
        resolve_options(unknown, document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MIXTURE.replace("0.3", "0.4"), "the weights of the mixture sum to 1.1; they are shares"),
        (MIXTURE.replace("0.3", "0"), "0 is not above 0"),
        (MIXTURE.replace("python-source", "minicode"), "two parts of the mixture have one name"),
        (MIXTURE + "\nsource: mbpp", "give exactly one of source and mixture"),
        (MIXTURE + "\nnum_problems: 3", "num_problems belongs into a part of the mixture"),
        ("mixture: []", "mixture"),
        ("source: minicode\npairs: true\nincorrect_share: 0.3", "pairs are half incorrect"),
        ("source: minicode\nmax_length_ratio: 1.5", "max_length_ratio is for pairs"),
        ("source: minicode\ncurriculum: {schedule: square}", "is not 'linear', 'sqrt'"),
        ("source: minicode\ncurriculum: {start: 0}", "0 is not above 0"),
    ],
)
def test_mistakes_in_how_samples_are_drawn(write: Write, text: str, reason: str) -> None:
    assert reason in message(load_recipe, write(with_data(text)))


def test_pairs_need_an_even_batch(write: Write) -> None:
    text = with_data("source: minicode\npairs: true").replace("global_batch: 8", "global_batch: 7")
    assert "needs an even optimization.global_batch: it is 7" in message(load_recipe, write(text))
