#!/usr/bin/env python3
"""Counts the instructions a command takes in the proxy's own code, and compares with a baseline.

Runs `bench/cores.rs` under callgrind, each workload twice with different numbers of turns; the
difference is what the turns cost, free of start-up. Instructions do not depend on what else the
machine does, so a few per cent more is a change of the code. Invariant: a workload that takes more
than TOLERANCE over `bench/instructions.json` ends this with status 1; `--update` writes that file
anew. It does not measure system calls or time: see `make bench`.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BASELINE = os.path.join(ROOT, "bench", "instructions.json")
WORKLOADS = ["get", "get_pipelined", "set_pipelined", "mget_of_10"]
TURNS = (20, 120)
TOLERANCE = 0.05


def build():
    """The path of the program, built as it is measured."""
    # As releases are: without a path of this machine.
    subprocess.run(
        ["sh", "-c", ". deploy/release-env.sh && exec cargo build --locked --profile cores --example cores"],
        cwd=ROOT, check=True)
    return os.path.join(ROOT, "target", "cores", "examples", "cores")


def instructions(program, workload, turns):
    """Instructions of a run, and the commands it carried."""
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + os.path.join(scratch, "out"),
             program, workload, str(turns)],
            env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    return int(collected.group(1)), int(run.stdout.split()[0])


def per_command(program, workload):
    (few, commands_few), (many, commands_many) = (
        instructions(program, workload, turns) for turns in TURNS)
    return round((many - few) / (commands_many - commands_few), 1)


def main():
    program = build()
    found = {workload: per_command(program, workload) for workload in WORKLOADS}
    if "--update" in sys.argv[1:]:
        with open(BASELINE, "w") as file:
            json.dump(found, file, indent=2)
            file.write("\n")
    with open(BASELINE) as file:
        baseline = json.load(file)
    worse = False
    print(f"{'instructions a command':24} {'now':>10} {'baseline':>10} {'ratio':>7}")
    for workload in WORKLOADS:
        ratio = found[workload] / baseline[workload]
        verdict = ""
        if ratio > 1 + TOLERANCE:
            worse, verdict = True, "  more than the baseline allows"
        elif ratio < 1 - TOLERANCE:
            verdict = "  less: `make instructions UPDATE=1` keeps it"
        print(f"{workload:24} {found[workload]:10.1f} {baseline[workload]:10.1f} {ratio:7.3f}{verdict}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
