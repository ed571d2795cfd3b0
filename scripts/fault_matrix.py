"""Does the diagnosis name what is wrong? Real engine pairs, each with one injected fault.

    python scripts/fault_matrix.py [--seed 2] [--engines 0.18.1] [--only CASE]

Records a run directory a case, `faults/0.18.1-seed-2/CASE` (those that are there are kept),
diagnoses each, and prints which cause was named first, as text and as Markdown. `--seed` seeds the
engines and the injected errors, and picks one half of the bundled prompts. The exit code is 1 when
a fault was missed or a clean pair was given a finding.
"""

from __future__ import annotations

import argparse
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
    parser.add_argument("--record", action="store_true", help="record the cases, and end there")
    asked = parser.parse_args()
    known = {case.name for case in all_cases()}
    if asked.only and (unknown := set(asked.only) - known):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")

    def wanted(cases: tuple[Case, ...]) -> list[Case]:
        return [case for case in cases if not asked.only or case.name in asked.only]

    out = asked.out / f"{asked.engines}-seed-{asked.seed}"
    record(wanted(all_cases()), out, asked.seed, V1_VERSIONS[asked.engines])
    if asked.record:
        return 0
    outcomes = [verdicts.judge(case, out / case.name) for case in wanted((*FAULTS, *CLEAN))]
    for render in (verdicts.text, verdicts.markdown, verdicts.confusion, verdicts.summary):
        print(f"\n{render(outcomes)}")
    return 0 if all(outcome.right for outcome in outcomes) else 1


def record(cases: list[Case], out: Path, seed: int, v1: str) -> None:
    with Fleet(out.absolute() / ".engines", seed, v1) as fleet:
        recorder = Recorder(fleet, out)
        for case in cases:
            if recorder.path(case).is_dir():
                continue
            started = time.monotonic()
            recorder.make(case)
            print(f"{case.name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
