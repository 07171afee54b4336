"""Run by test_processes under torch.distributed.run: trains every case on two gloo processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.training.test_processes import CASES, resumed, run


def main(out: str, alone: str) -> None:
    folder = Path(out)
    for case in CASES:
        run(folder / case.folder, case, processes=2)
    resumed(Path(alone), folder / "resumed", processes=2)
    # gloo's threads now and then abort the interpreter while it winds down ("terminate called
    # without an active exception"). All that is tested has happened by now.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
