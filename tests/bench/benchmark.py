"""Compare this example with what it is built on: CPU, rates, lost calls and memory, as ratios.

Variants are measured in turn, in several rounds of one run. A value is the median of the rounds,
and a ratio is the median of the ratios in each round. A call is POST helloJson without a delay in
the server. With the environment variable KAR, the path of a real kar command, its rates are
measured as well.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import measurements
from bench.measurements import Rounds
from bench.report import Section

MEASUREMENTS: dict[str, Callable[[Rounds], Section]] = {
    "server-cpu": measurements.server_cpu,
    "client-cpu": measurements.client_cpu,
    "sidecars": measurements.sidecars,
    "lost-calls": measurements.lost_calls,
    "sniffio": measurements.sniffio,
    "memory": measurements.memory,
    "burst": measurements.burst,
}


def main() -> int:
    options = parse_args()
    started = time.monotonic()
    missed = []
    print(__doc__)
    for name in options.measurements or MEASUREMENTS:

        def log(step: str, name: str = name) -> None:
            print(f"{time.monotonic() - started:4.0f} s  {name}: {step}", file=sys.stderr)

        section = MEASUREMENTS[name](Rounds(options.rounds, log))
        print(name, *section.lines(), "", sep="\n", flush=True)
        missed += [figure for figure in section.figures if figure.is_missed()]
    if not missed:
        print("All goals are met.")
        return 0
    print("Missed goals:", *missed, sep="\n  ")
    return 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "measurements",
        nargs="*",
        metavar="MEASUREMENT",
        help=f"one or more of {', '.join(MEASUREMENTS)} (default: all)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each variant is measured (default: 3)"
    )
    options = parser.parse_args()
    unknown = set(options.measurements) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
