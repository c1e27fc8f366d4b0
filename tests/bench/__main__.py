"""`python -m tests.bench NAME [--json FILE]`: measurements, each with its own reference in the same run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench import train, wire

BENCHMARKS = {"train": train.measure, "wire": wire.measure}


def main() -> int:
    """Run one benchmark; prints a table and one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), default="train")
    parser.add_argument("--json", type=Path, help="also write the object to this file")
    options = parser.parse_args()
    result = BENCHMARKS[options.name]()
    for name, value in result.items():
        print(f"{name:28} {value}")
    text = json.dumps(result)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
