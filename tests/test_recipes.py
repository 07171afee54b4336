"""Every shipped recipe validates and trains on a tiny model; every field is read somewhere."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.data.sources.test_codecontests import PYTHON3, ROW, programs
from tests.tiny import tiny_config
from wmtp.config.check import check_file
from wmtp.config.environment import Environment
from wmtp.config.load import Document, load_document, load_environment, load_recipe
from wmtp.config.options import resolve_options
from wmtp.config.recipe import Recipe
from wmtp.config.suite import Suite
from wmtp.data.tokenizer import train_tokenizer
from wmtp.modeling.mtp import MTPModel
from wmtp.pipeline.train import train
from wmtp.registry import ALGORITHMS, BENCHMARKS, SOURCES
from wmtp.report.groups import differing_settings, flat_settings
from wmtp.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LARGE = sorted((ROOT / "recipes" / "7b").glob("*.yaml"))
ABLATIONS = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
SUITES = [*sorted((ROOT / "src" / "wmtp" / "recipes").glob("*.yaml")), *ABLATIONS]
ENVIRONMENTS = sorted((ROOT / "environments").glob("*.yaml"))


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", [*RECIPES, *LARGE, *SUITES, *ENVIRONMENTS], ids=name)
def test_shipped_settings_have_no_mistakes(path: Path) -> None:
    assert check_file(path)


def tiny(path: Path, folder: Path) -> Document:
    """The recipe with a tiny model and data, and two steps."""
    document = load_document(path)
    architecture = ("hidden_size=32", "intermediate_size=48", "num_attention_heads=4")
    settings = [
        *(
            f"model.architecture.{s}"
            for s in architecture
            if "architecture" in document.data["model"]
        ),
        "optimization.steps=2",
        "evaluation.held_out_points=1",
        "evaluation.held_out_limit=4",
        "data.limit=40",
    ]
    document.override(settings)
    document.data["optimization"].pop("epochs", None)
    if document.data["data"]["source"] == "minicode":
        document.override(["data.num_problems=150"])
    if document.data["data"]["source"] == "python-source":
        document.override([f"data.path={ROOT / 'src'}"])
    return document


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of recipes/reference.yaml, tiny."""
    folder = tmp_path_factory.mktemp("reference")
    return train(tiny(ROOT / "recipes" / "reference.yaml", folder), environment(folder))


@pytest.fixture(scope="module")
def critic(reference: RunFolder) -> RunFolder:
    """The run of recipes/value-lora.yaml, tiny, on that reference."""
    path = ROOT / "recipes" / "value-lora.yaml"
    return train(on_runs(tiny(path, reference.path), reference), environment(reference.path.parent))


def on_runs(document: Document, reference: RunFolder, critic: RunFolder | None = None) -> Document:
    """Put runs of the tests where a recipe names those of other recipes."""
    runs = {"runs/reference": reference.path, "runs/reference/model": reference.model}
    if critic is not None:
        runs["runs/value-lora"] = critic.path

    def put(section: dict[str, Any]) -> None:
        for key, value in section.items():
            if isinstance(value, dict):
                put(value)
            elif isinstance(value, str) and value in runs:
                section[key] = str(runs[value])

    put(document.data)
    return document


def environment(folder: Path) -> Environment:
    return Environment(output_root=str(folder), device="cpu", tracking={"enabled": False})


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_shipped_recipes_train_two_steps(path: Path, tmp_path: Path, request: Any) -> None:
    document, text = tiny(path, tmp_path), path.read_text(encoding="utf-8")
    if document.data["data"]["source"] == "mbpp":
        shared = request.getfixturevalue("shared_data")
        document.override([f"data.path={shared / 'mbpp' / 'mbpp.jsonl'}"])
    if ": runs/" in text:
        critic = request.getfixturevalue("critic") if "values_from" in text else None
        on_runs(document, request.getfixturevalue("reference"), critic)
    assert train(document, environment(tmp_path)).totals()["steps"] == 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with one tokenizer: `policy` as `wmtp convert native` writes Meta's, and `reference`."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["print(sum(map(int, input().split())))"] * 4, 300)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    config = tiny_config(**sizes, pad_token_id=tokenizer.pad_token_id)
    MTPModel.from_config(config, num_heads=4).save_pretrained(folder / "policy")
    MTPModel.from_config(config, num_heads=1).backbone.save_pretrained(folder / "reference")
    for name in ("policy", "reference"):
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def contests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of CodeContests' schema: problems with a rating and one without."""
    folder = tmp_path_factory.mktemp("contests")
    right = programs(*((PYTHON3, f"print(int(input()) + {i})") for i in range(6)))
    wrong = programs(*((PYTHON3, f"print(int(input()) - {i})") for i in range(6)))
    rows = [
        {
            **ROW,
            "name": f"{i}_A",
            "cf_rating": 800 * i,
            "solutions": right,
            "incorrect_solutions": wrong,
        }
        for i in range(4)
    ]
    for split in ("train", "valid"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("path", LARGE, ids=name)
def test_production_recipes_train_two_steps(
    path: Path, models: Path, contests: Path, tmp_path: Path
) -> None:
    """With a tiny model of the same layout and a small file of the same schema; the rest as shipped."""
    document = load_document(path)
    model = "reference" if path.stem == "reference" else "policy"
    document.override(
        [
            f"model.pretrained={models / model}",
            f"data.path={contests}",
            "data.max_length=256",
            "optimization.global_batch=4",
            "optimization.epochs=null",
            "optimization.steps=2",
            "evaluation.held_out_points=1",
            "evaluation.held_out_limit=4",
        ]
    )
    if document.data["algorithm"]["name"] == "rho1-wmtp":
        document.override([f"algorithm.reference={models / 'reference'}"])
    assert train(document, environment(tmp_path)).totals()["steps"] == 2


def test_production_recipes_have_the_settings_of_the_notes() -> None:
    for path in LARGE:
        recipe, document = load_recipe(path)
        options = resolve_options(recipe, document).algorithm.model_dump()
        critic = "critic" in path.stem
        assert recipe.data.limit == 150_000
        assert recipe.data.incorrect_share == (0.5 if critic else 0)
        assert (recipe.data.curriculum is not None) == critic
        assert recipe.optimization.max_grad_norm == 1.0
        assert recipe.optimization.epochs == (1 if path.stem == "reference" else 3)
        assert recipe.model.num_heads == (1 if path.stem == "reference" else 4)
        if recipe.algorithm.name == "rho1-wmtp":
            assert (options["mode"], options["keep"]) == ("topk", 0.6)
        if critic:
            names = (
                "gamma",
                "gae_lambda",
                "beta",
                "clip_min",
                "clip_max",
                "value_coef",
                "value_clip",
            )
            assert [options[n] for n in names] == [1.0, 0.0, 0.9, 0.1, 5.0, 0.5, 0.2]
            assert options["value_phase"]["share"] * 3 == pytest.approx(0.5)
            assert (options["trunk"], options["whiten"]) == ("frozen", True)


def test_lora_variants_differ_by_lora_alone() -> None:
    for path in LARGE:
        if not path.stem.endswith("-lora"):
            continue
        own, whole = (load_document(p).data for p in (path, path.with_stem(path.stem[:-5])))
        assert own["model"].pop("lora") == {
            "rank": 16,
            "alpha": 32,
            "dropout": 0.05,
            "target_modules": "all-linear",
        }
        assert own.pop("name") == f"{whole.pop('name')}-lora"
        assert own["optimization"].pop("learning_rate") > whole["optimization"].pop("learning_rate")
        assert own == whole


def test_ablations_vary_one_setting_of_the_critic() -> None:
    for path in ABLATIONS:
        suite = load_document(path).validate(Suite)
        arms = [flat_settings(change["algorithm"]) for change in suite.arms.values()]
        assert arms[0] == {"name": '"mtp-baseline"'}
        assert len(suite.seeds) >= 3
        assert len(differing_settings(arms[1:])) == 1


def test_shipped_environments_load() -> None:
    for path in ENVIRONMENTS:
        assert load_environment(path).name


def fields(model: type[BaseModel]) -> set[str]:
    """Return the names of all fields of a section and of those inside it."""
    found: set[str] = set()
    for key, field in model.model_fields.items():
        found.add(key)
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= fields(kind)
    return found


def test_every_field_is_read_somewhere() -> None:
    """A setting that no code looks at is a promise that nothing keeps."""
    read: set[str] = set()
    for file in (ROOT / "src" / "wmtp").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                read |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    plugins = [r.get(n).Config for r in (ALGORITHMS, SOURCES, BENCHMARKS) for n in r.names()]
    declared = set().union(*(fields(model) for model in (Recipe, Environment, *plugins)))
    assert len(declared) > 60
    # `benchmark` and `source` are read by name: resolve_options looks them up with getattr.
    assert declared - read == set()
