"""Does the diagnosis find injected faults? Real engine pairs, each with one fault.

    python scripts/fault_matrix.py [--seed 2] [--engines 0.18.1] [--only CASE] [--minutes 6]

Records one run directory per case, `faults/0.18.1-seed-2/CASE` (existing ones are reused),
diagnoses each, and prints the first finding as text and Markdown. `--seed` seeds the engines and
the injected errors, and selects one half of the bundled prompts. The exit code is 1 if a fault was
missed or a clean pair has a finding. With `--minutes`, no case is begun after so many: the exit
code is 2 while cases are left, and the same command goes on with them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from faults import verdicts
from faults.cases import CLEAN, FAULTS, V1_VERSIONS, Case, all_cases
from faults.fleet import Fleet
from faults.record import Recorder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("faults"))
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--only", action="append", metavar="CASE", help="may be repeated")
    parser.add_argument("--engines", choices=V1_VERSIONS, default="0.18.1", help="the V1 version")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no case after so many"
    )
    parser.add_argument("--record", action="store_true", help="only record the cases")
    options = parser.parse_args()
    known = {case.name for case in all_cases()}
    if options.only and (unknown := set(options.only) - known):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")

    def wanted(cases: tuple[Case, ...]) -> list[Case]:
        return [case for case in cases if not options.only or case.name in options.only]

    out = options.out / f"{options.engines}-seed-{options.seed}"
    until = time.monotonic() + 60 * options.minutes
    left = record(wanted(all_cases()), out, options.seed, V1_VERSIONS[options.engines], until)
    if left:
        print(f"{left} cases are left", file=sys.stderr)
        return 2
    if options.record:
        return 0
    outcomes = [verdicts.judge(case, out / case.name) for case in wanted((*FAULTS, *CLEAN))]
    for render in (verdicts.text, verdicts.markdown, verdicts.confusion, verdicts.summary):
        print(f"\n{render(outcomes)}")
    return 0 if all(outcome.right for outcome in outcomes) else 1


def record(cases: list[Case], out: Path, seed: int, v1: str, until: float) -> int:
    """Record what is not there yet; return how many cases were not begun in time."""
    missing = [case for case in cases if not (out / case.name).is_dir()]
    with Fleet(out.absolute() / ".engines", seed, v1) as fleet:
        recorder = Recorder(fleet, out)
        for number, case in enumerate(missing):
            started = time.monotonic()
            if started > until:
                return len(missing) - number
            recorder.make(case)
            print(f"{case.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
