"""Audit the weights of runs against known faults: from settings to scores and a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from wmtp.algorithms.base import Algorithm
from wmtp.config.environment import Environment
from wmtp.config.load import load_document
from wmtp.config.options import resolve_options
from wmtp.config.recipe import Recipe
from wmtp.data.collate import Collate
from wmtp.data.encode import Encoded, EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.reference import with_reference_ce
from wmtp.data.seen import SeenProblems
from wmtp.data.templates import use_template
from wmtp.data.tokenizer import load_tokenizer
from wmtp.display import Display
from wmtp.errors import CheckpointError, ConfigError, DataError
from wmtp.evaluation.audit import HeadPrograms, auroc, head_programs, scores_by_head
from wmtp.inputs import read_json_object
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import atomic_write_json
from wmtp.pipeline.data import make_source
from wmtp.pipeline.examples import named_examples, source_examples
from wmtp.provenance import provenance
from wmtp.registry import ALGORITHMS
from wmtp.report.audit import SHUFFLED, WEIGHTS, AuditedRun, write_audit_page
from wmtp.report.runs import WeighedSample
from wmtp.run_folder import RunFolder, model_folder
from wmtp.training.arguments import resolve_device
from wmtp.training.weight_samples import weigh_samples, weight_record
from wmtp.weighting import align_to_tokens, permute_within_rows

_BATCH = 32


@dataclass(frozen=True)
class Faulty:
    """Where faulty programs come from; without `file` and `source`, from the first run's recipe.

    limit: at most this many programs, evenly spaced. max_length: tokens of a program with its prompt;
    default: that of each run's recipe. end_token: whether the token after a program's text is scored too.
    """

    file: Path | None = None
    source: str | None = None
    settings: tuple[str, ...] = ()
    split: str = "test"
    limit: int | None = None
    max_length: int | None = None
    end_token: bool = False

    def __str__(self) -> str:
        return f"{self.file or self.source or 'data of the recipe'}, split {self.split}"


@dataclass(frozen=True)
class Trained:
    """A complete run: what its weights are made with."""

    run: RunFolder
    recipe: Recipe
    algorithm: Algorithm[Any]
    model: MTPModel
    tokenizer: PreTrainedTokenizerBase
    seen: SeenProblems

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.path.resolve().name

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Return the run in the folder `path`; what is missing there is a `CheckpointError`."""
        run = RunFolder(path)
        folder = model_folder(path)
        for file in (run.recipe, run.algorithm_state, run.seen):
            if not file.is_file():
                raise CheckpointError(
                    f"{path}: {file.name} is missing. An audit needs the whole folder of a run of "
                    "`wmtp train`, with the state of its algorithm and a record of its training data."
                )
        document = load_document(run.recipe)
        recipe = document.validate(Recipe)
        settings = resolve_options(recipe, document).algorithm
        algorithm = ALGORITHMS.get(recipe.algorithm.name)(settings, recipe.seed)
        algorithm.restore(read_json_object(run.algorithm_state))
        tokenizer = load_tokenizer(folder)
        use_template(tokenizer, recipe.data.template)
        model = MTPModel.from_pretrained(folder)
        return cls(run, recipe, algorithm, model, tokenizer, _seen(run, algorithm))


def audit(
    runs: Sequence[Path],
    faulty: Faulty,
    environment: Environment,
    *,
    output: Path | None = None,
    display: Display | None = None,
) -> Path:
    """Score the weights of each run on faulty programs that none of them was trained on.

    Returns the folder that `audit.json` and `audit.html` were written into.
    """
    display = display or Display()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if output is None and len(runs) > 1:
        raise ConfigError("An audit of several runs needs --output: a folder for the page.")
    output = output or runs[0] / "audit"
    if len({path.resolve().name for path in runs}) < len(runs):
        raise ConfigError("Two of the runs have folders of one name, by which the page calls them.")
    trained = [Trained.load(path) for path in runs]
    examples, counts = unseen_faulty(_examples(faulty, trained[0]), trained, str(faulty))
    if faulty.limit is not None and faulty.limit < len(examples):
        places = np.linspace(0, len(examples) - 1, faulty.limit).round().astype(int)
        examples = [examples[place] for place in places]
    audited = [_audit_run(run, examples, faulty, environment, display) for run in trained]
    record = {
        "settings": {
            "data": str(faulty),
            "runs": [str(path) for path in runs],
            **_settings(faulty),
        },
        "provenance": provenance(),
        "programs": {"audited": len(examples), **counts},
        "runs": {run.name: run.record() for run in audited},
    }
    atomic_write_json(output / "audit.json", record)
    write_audit_page(output / "audit.html", audited, record)
    return output


def unseen_faulty(
    examples: Iterable[Example], trained: Sequence[Trained], where: str
) -> tuple[list[Example], dict[str, int]]:
    """Return the examples with known faults whose problems no run has seen, and counts of the others.

    None left is a `DataError`.
    """
    kept: list[Example] = []
    counts = {"without_known_fault": 0, "seen_in_training": 0}
    for example in examples:
        if not example.fault_spans:
            counts["without_known_fault"] += 1
        elif any(example in run.seen for run in trained):
            counts["seen_in_training"] += 1
        else:
            kept.append(example)
    if kept:
        return kept, counts
    if counts["seen_in_training"]:
        raise DataError(
            f"{where}: all {counts['seen_in_training']} programs with known faults belong to problems that "
            "the model was trained on. Give other data, or another --split."
        )
    raise DataError(
        f"{where}: none of {counts['without_known_fault']} examples has fault_spans, the places of its "
        "faults. `wmtp data mutate` plants faults and writes them."
    )


def _settings(faulty: Faulty) -> dict[str, Any]:
    names = ("limit", "max_length", "end_token")
    return {"set": faulty.settings, **{name: getattr(faulty, name) for name in names}}


def _examples(faulty: Faulty, first: Trained) -> Iterator[Example]:
    if faulty.file is not None or faulty.source is not None:
        return named_examples(faulty.file, faulty.source, faulty.settings, faulty.split)
    document = load_document(first.run.recipe, [f"data.{one}" for one in faulty.settings])
    recipe = document.validate(Recipe)
    return source_examples(make_source(recipe, resolve_options(recipe, document)), faulty.split)


def _seen(run: RunFolder, algorithm: Algorithm[Any]) -> SeenProblems:
    """Return what the run, and the reference of its algorithm as far as it has a record, was trained on."""
    seen = SeenProblems.load(run.seen)
    if algorithm.reference is not None:
        reference = RunFolder(model_folder(algorithm.reference).parent).seen
        if reference.is_file():
            seen |= SeenProblems.load(reference)
    return seen


def _audit_run(
    run: Trained,
    examples: list[Example],
    faulty: Faulty,
    environment: Environment,
    display: Display,
) -> AuditedRun:
    data = _encoded(run, examples, faulty)
    device = resolve_device(environment.device)
    run.model.to(device)
    if run.algorithm.reference is not None:
        cache = Path(environment.output_root) / "cache"
        reference = model_folder(run.algorithm.reference)
        data = with_reference_ce(data, reference, run.tokenizer, cache, device=device)
    programs, samples = _weigh(run, data, faulty.end_token, display)
    keys = [(item.example.task_id, item.example.completion) for item in data.items]
    by_source: dict[str, list[int]] = {}
    for place, item in enumerate(data.items):
        by_source.setdefault(item.example.source, []).append(place)
    return AuditedRun(
        name=run.name,
        algorithm=run.recipe.algorithm.name,
        left_out=len(examples) - len(data),
        at_end=sum(of[0] is None for of in programs[WEIGHTS]),
        scores=scores_by_head(programs),
        by_source={
            source: scores_by_head(
                {name: [of[i][:1] for i in places] for name, of in programs.items()}
            )
            for source, places in sorted(by_source.items())
            if len(by_source) > 1
        },
        samples=dict(zip(keys, samples, strict=True)),
        auroc={key: auroc(of[0]) for key, of in zip(keys, programs[WEIGHTS], strict=True) if of[0]},
    )


def _encoded(run: Trained, examples: list[Example], faulty: Faulty) -> EncodedSet:
    """Return the programs with a fault within the maximal length, also those that lack their end alone."""
    settings, where = run.recipe.data, str(faulty)
    max_length = faulty.max_length or settings.max_length
    positions = getattr(run.model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ConfigError(
            f"--max-length {max_length}: {run.run.path} has {positions} positions. Lower it."
        )
    if "reward" in run.algorithm.needs and any(e.reward is None for e in examples):
        raise DataError(f"{where}: {run.recipe.algorithm.name} needs the reward of each program.")
    data = encode_examples(examples, run.tokenizer, max_length, where, boundary=settings.boundary)
    scored = [
        head_programs(item, np.zeros((len(item), 1)), faulty.end_token)[0] for item in data.items
    ]
    if not any(scored):
        raise DataError(
            f"{where}: no program has a fault, and a token that is none, within the first {max_length} "
            f"tokens of {run.run.path}. Give shorter programs, or a larger --max-length; --end-token for "
            "those that only lack something at their end."
        )
    pairs = zip(data.items, scored, strict=True)
    return EncodedSet([item for item, known in pairs if known or _lacks_its_end(item)])


def _lacks_its_end(item: Encoded) -> bool:
    return bool(item.fault[len(item) - item.num_tail :].any())


def _weigh(
    run: Trained, data: EncodedSet, end_token: bool, display: Display
) -> tuple[dict[str, list[HeadPrograms]], list[WeighedSample]]:
    """Return the programs under weights, their shuffle and signals, and the weights for the page."""
    collate = Collate(run.model.num_heads, int(run.tokenizer.pad_token_id))
    programs: dict[str, list[HeadPrograms]] = {}
    samples: list[WeighedSample] = []
    with display.stage(f"weights of {run.name}") as update:
        for start in range(0, len(data), _BATCH):
            chosen = list(range(start, min(start + _BATCH, len(data))))
            batch, weights = weigh_samples(run.model, run.algorithm, data, chosen, collate)
            views = {
                WEIGHTS: weights,
                SHUFFLED: permute_within_rows(weights, batch.valid, chosen),
                **run.algorithm.signals(batch),
            }
            for name, view in views.items():
                by_token = align_to_tokens(view.float(), batch.valid).cpu()
                for sample, values in zip(chosen, by_token, strict=True):
                    found = head_programs(data.items[sample], values.numpy(), end_token)
                    programs.setdefault(name, []).append(found)
                    if name == WEIGHTS:
                        record = weight_record(data, sample, values, run.tokenizer)
                        samples.append(WeighedSample(**record))
            update(chosen[-1] + 1, len(data))
    return programs, samples
