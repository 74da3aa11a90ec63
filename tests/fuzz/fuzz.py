#!/usr/bin/env python3
"""Builds the fuzz targets with stable rustc and runs them: `make fuzz`, and what CI runs.

    fuzz.py --seconds 600              all targets, one after the other, for so long in all
    fuzz.py --seconds 60 --target hub  one of them
    fuzz.py --target hub --input FILE  that input alone: how a finding is made again
    fuzz.py --smoke                    the corpora, and a little more
    fuzz.py --minimise                 what target/fuzz has learnt into tests/fuzz/corpus, the fewest files

Ends with 0 when nothing was found, with 1 and the command that makes it again when something was.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
OUT = TOP / "target" / "fuzz"
CORPUS = HERE / "corpus"

# One input may take so long (s; most take none, but a machine may be busy), the process hold so much (MiB).
LIMITS = ["-timeout=120", "-rss_limit_mb=4096"]
# Inputs that are histories want more room than what is parsed at once.
LONGEST = {"simulation": 768, "scan": 1024, "hub": 640, "config": 2048, "http": 8192, "reply": 65536, "value": 65536}
SMOKE_SECONDS = 2
# So many of what was learnt go into the repository for each target.
KEPT = 24


def targets() -> list[str]:
    source = (HERE / "src" / "main.rs").read_text()
    return re.findall(r'^    \("(\w+)", \w+::run\),$', source, re.M)


def build() -> pathlib.Path:
    env = {**os.environ, "RUSTC_WRAPPER": str(HERE / "rustc.sh"), "CARGO_TARGET_DIR": str(OUT)}
    command = ["cargo", "build", "--manifest-path", str(HERE / "Cargo.toml")]
    if subprocess.run([*command, "--locked"], env=env).returncode != 0:
        print("fuzz: Cargo.toml may be ahead of tests/fuzz/Cargo.lock, which is written anew", flush=True)
        subprocess.run(command, env=env, check=True)
    return OUT / "debug" / "fuzz"


def command(binary: pathlib.Path, target: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
    longest = f"-max_len={LONGEST.get(target, 4096)}"
    return [str(binary), *LIMITS, longest, *map(str, arguments)], {**os.environ, "FUZZ_TARGET": target}


def run(binary: pathlib.Path, target: str, seconds: int) -> dict[str, object] | None:
    """Fuzzes one target; what it did, or None when it found something."""
    learnt, found = OUT / "corpus" / target, OUT / "findings"
    learnt.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    argv, env = command(
        binary,
        target,
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/{target}-",
        "-print_final_stats=1",
        *(["-rss_limit_mb=8192"] if target in ("introspect", "keys") else []),
        learnt,
        CORPUS / target,
    )
    log = OUT / f"{target}.log"
    with log.open("wb") as file:
        code = subprocess.run(argv, env=env, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    text = log.read_text(errors="replace")
    if code != 0:
        print("\n".join(text.splitlines()[-40:]))
        artifact = re.findall(r"Test unit written to (\S+)", text)
        print(f"\nfuzz: {target} found something (status {code}); the whole log is {log}")
        for path in artifact:
            kept = CORPUS / target / "a-telling-name"
            print(f"fuzz: again: make fuzz TARGET={target} INPUT={path}")
            print(f"fuzz: once it is mended, keep it: cp {path} {kept}")
        return None
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    memory = re.search(r"stat::peak_rss_mb:\s*(\d+)", text)
    edges, features = covered[-1] if covered else (0, 0)
    return {
        "seconds": seconds,
        "executions": int(executed.group(1)) if executed else 0,
        "edges": int(edges),
        "features": int(features),
        "peak MiB": int(memory.group(1)) if memory else 0,
    }


def replay(binary: pathlib.Path, target: str, inputs: list[pathlib.Path]) -> bool:
    argv, env = command(binary, target, *inputs)
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        print("\n".join(done.stderr.splitlines()[-40:]))
        print(f"\nfuzz: {target} fails on its corpus (status {done.returncode}); the input is the last one named above")
    return done.returncode == 0


def files(target: str) -> list[pathlib.Path]:
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


def minimise(binary: pathlib.Path, target: str) -> None:
    """Adds to the named inputs, which stay, the fewest others that cover what is known."""
    named = [path for path in files(target) if not re.fullmatch(r"[0-9a-f]{40}", path.name)]
    scratch, learnt = OUT / "merged" / target, OUT / "corpus" / target
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    learnt.mkdir(parents=True, exist_ok=True)
    for path in named:
        shutil.copy(path, scratch / path.name)
    argv, env = command(binary, target, "-merge=1", scratch, learnt, CORPUS / target)
    subprocess.run(argv, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    for path in files(target):
        if path not in named:
            path.unlink()
    # Of all sizes.
    merged = sorted((p for p in scratch.iterdir() if re.fullmatch(r"[0-9a-f]{40}", p.name)), key=lambda p: p.stat().st_size)
    step = max(1, len(merged) // KEPT)
    for path in merged[::step][:KEPT]:
        shutil.copy(path, CORPUS / target / path.name)
    print(f"{target}: {len(merged)} inputs, {len(files(target))} kept")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--target", choices=targets())
    parser.add_argument("--input", type=pathlib.Path)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--minimise", action="store_true")
    chosen = parser.parse_args()
    wanted = [chosen.target] if chosen.target else targets()
    if chosen.input and not chosen.target:
        parser.error("--input wants --target")
    unnamed = {path.name for path in CORPUS.iterdir()} ^ set(targets())
    if unnamed:
        parser.error(f"tests/fuzz/corpus and the targets of main.rs do not agree: {sorted(unnamed)}")

    binary = build()
    if chosen.input:
        return 0 if replay(binary, chosen.target, [chosen.input]) else 1
    if chosen.minimise:
        for target in wanted:
            minimise(binary, target)
        return 0
    began = time.monotonic()
    each = SMOKE_SECONDS if chosen.smoke else max(1, chosen.seconds // len(wanted))
    print("| target | seconds | executions | edges | features | peak MiB |\n|---|---|---|---|---|---|", flush=True)
    failed = []
    for target in wanted:
        if not replay(binary, target, files(target)):
            failed.append(target)
            continue
        did = run(binary, target, each)
        if did is None:
            failed.append(target)
            continue
        print(f"| {target} | " + " | ".join(str(value) for value in did.values()) + " |", flush=True)
    # What the target `config` was given as a file.
    for path in pathlib.Path("/dev/shm").glob("memorystore-auth-proxy-fuzz-*.toml"):
        path.unlink(missing_ok=True)
    took = time.monotonic() - began
    print(f"fuzz: {len(wanted)} targets in {took:.0f} s")
    print(f"{len(wanted) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
