"""Counts lines of tests and of code: lines that are neither blank nor comments. Tests are what stands behind
`#[cfg(test)]`, in `tests` folders, and in the harness, without the benchmarks."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def counted(lines):
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("//"))


def main():
    code, tests = 0, 0
    for path in sorted(ROOT.rglob("*.rs")):
        parts = path.relative_to(ROOT).parts
        if parts[0].startswith(".") or parts[0] == "target" or "bench" in parts:
            continue
        lines = path.read_text().splitlines()
        if "integration-tests" in parts or "tests" in parts:
            tests += counted(lines)
            continue
        split = next((at for at, line in enumerate(lines) if line == "#[cfg(test)]"), len(lines))
        code += counted(lines[:split])
        tests += counted(lines[split:])
    ratio = tests / code
    print(f"{tests} lines of tests, {code} of code: {ratio:.2f}")
    sys.exit(ratio < 0.8)


main()
