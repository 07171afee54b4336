"""Names that recipes use, and where their code lives.

A registry maps a name to `"module:attribute"` and imports it on first use, so that `wmtp list` and
`--help` import nothing heavy. Other packages add names through entry points of the registry's group::

    [project.entry-points."wmtp.algorithms"]
    my-scheme = "my_package.my_scheme:MyScheme"
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from wmtp.errors import ConfigError, near_match


class Registry:
    """Names of one kind of thing, resolved lazily.

    `kind` is the singular used in messages ("algorithm"), `group` the entry-point group that other
    packages register in, `builtin` maps each of our names to `"module:attribute"`.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    def _locations(self) -> dict[str, str]:
        found = dict(self._builtin)
        for entry in entry_points(group=self.group):
            if found.get(entry.name, entry.value) != entry.value:
                raise ConfigError(
                    f"{self.kind} {entry.name!r} is registered twice: {found[entry.name]} and "
                    f"{entry.value}. Uninstall one of the packages or rename its entry point."
                )
            found[entry.name] = entry.value
        return found

    def names(self) -> list[str]:
        """Return all known names, ours first, in order of registration."""
        return list(self._locations())

    def location(self, name: str) -> str:
        """Return `"module:attribute"` of `name`; an unknown name is a `ConfigError`."""
        locations = self._locations()
        if name not in locations:
            raise ConfigError(
                f"unknown {self.kind} {name!r}.{near_match(name, locations)} "
                f"Known: {', '.join(locations)}."
            )
        return locations[name]

    def get(self, name: str) -> Any:
        """Import and return what `name` stands for."""
        module, _, attribute = self.location(name).partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.kind} {name!r} points at {module}:{attribute}, which cannot be imported: "
                f"{error}. Reinstall the package that provides it."
            ) from error

    def items(self) -> Iterable[tuple[str, str]]:
        """Return pairs of name and `"module:attribute"`."""
        return self._locations().items()


ALGORITHMS = Registry(
    "algorithm",
    "wmtp.algorithms",
    {
        "mtp-baseline": "wmtp.algorithms.baseline:Baseline",
        "critic-wmtp": "wmtp.algorithms.critic:Critic",
        "rho1-wmtp": "wmtp.algorithms.rho1:Rho1",
        "token-probability": "wmtp.algorithms.token_probability:TokenProbability",
        "high-entropy": "wmtp.algorithms.high_entropy:HighEntropy",
        "focal": "wmtp.algorithms.focal:Focal",
        "gradient-importance": "wmtp.algorithms.gradient_importance:GradientImportance",
        "hybrid": "wmtp.algorithms.hybrid:Hybrid",
        "shuffled": "wmtp.algorithms.shuffled:Shuffled",
        "random-matched": "wmtp.algorithms.random_matched:RandomMatched",
        "inverted": "wmtp.algorithms.inverted:Inverted",
        "oracle": "wmtp.algorithms.oracle:Oracle",
    },
)

SOURCES = Registry(
    "data source",
    "wmtp.sources",
    {
        "minicode": "wmtp.data.sources.minicode.source:Minicode",
        "mbpp": "wmtp.data.sources.mbpp:Mbpp",
        "mbppplus": "wmtp.data.sources.mbppplus:MbppPlus",
        "humaneval": "wmtp.data.sources.humaneval:HumanEval",
        "humanevalplus": "wmtp.data.sources.humanevalplus:HumanEvalPlus",
        "gsm8k": "wmtp.data.sources.gsm8k:Gsm8k",
        "math": "wmtp.data.sources.math:Math",
        "python-source": "wmtp.data.sources.python_source:PythonSource",
        "table": "wmtp.data.sources.table:Table",
        "jsonl": "wmtp.data.sources.table:Table",  # its older name
        "codecontests": "wmtp.data.sources.codecontests.source:CodeContests",
        "condefects": "wmtp.data.sources.condefects:ConDefects",
        "quixbugs": "wmtp.data.sources.quixbugs:QuixBugs",
        "refactory": "wmtp.data.sources.refactory:Refactory",
    },
)

BENCHMARKS = Registry(
    "benchmark",
    "wmtp.benchmarks",
    {
        "minicode": "wmtp.evaluation.minicode:MinicodeBenchmark",
        "mbpp": "wmtp.evaluation.mbpp:MbppBenchmark",
        "mbppplus": "wmtp.evaluation.mbppplus:MbppPlusBenchmark",
        "humaneval": "wmtp.evaluation.humaneval:HumanEvalBenchmark",
        "humanevalplus": "wmtp.evaluation.humanevalplus:HumanEvalPlusBenchmark",
        "codecontests": "wmtp.evaluation.codecontests:CodeContestsBenchmark",
        "quixbugs": "wmtp.evaluation.quixbugs:QuixBugsBenchmark",
        "condefects": "wmtp.evaluation.condefects:ConDefectsBenchmark",
        "gsm8k": "wmtp.evaluation.gsm8k:Gsm8kBenchmark",
        "math": "wmtp.evaluation.math:MathBenchmark",
    },
)
