"""Makes tables and a chart of the records of a benchmark.

Invariant: a ratio is the median of ratios within one round, never a ratio of medians.
Not here: measuring; whether a figure is good.
"""

from __future__ import annotations

from html import escape
from statistics import median

COLOURS = {"proxy": "#1a73e8", "HAProxy": "#8a8d91", "Envoy": "#c26401"}
HEADINGS = {
    "kops": ("kops/s", ".1f"),
    "times_direct": ("× direct", ".2f"),
    "cpu_us": ("CPU µs", ".2f"),
    "times_haproxy": ("× HAProxy", ".2f"),
    "servers_us": ("servers' CPU µs", ".2f"),
    "entries": ("system calls", ".2f"),
}


def rows(records: list[dict], entries: dict) -> list[dict]:
    """One row for each workload and target, in the order of the first round's workloads."""
    by_run = {(r["round"], r["workload"], r["target"]): r for r in records}
    pairs = dict.fromkeys((r["workload"], r["target"]) for r in records)
    order = ["direct", "proxy", "HAProxy", "Envoy"]
    workloads = list(dict.fromkeys(workload for workload, _ in pairs))
    result = []
    for workload, target in sorted(pairs, key=lambda p: (workloads.index(p[0]), order.index(p[1]))):
        row = {"workload": workload, "target": target}
        row.update(figures(by_run, workload, target))
        if (workload, target) in entries:
            row["entries"] = entries[workload, target]
        result.append(row)
    return result


def figures(by_run: dict, workload: str, target: str) -> dict[str, float]:
    runs = [r for (_, w, t), r in by_run.items() if (w, t) == (workload, target)]
    row = {"kops": median(r["rps"] for r in runs) / 1000}
    row["servers_us"] = median(r["servers_us"] for r in runs)
    if target != "direct":
        add_ratio(row, "times_direct", by_run, runs, "direct", "rps")
        row["cpu_us"] = median(r["cpu_us"] for r in runs)
    if target not in ("direct", "HAProxy"):
        add_ratio(row, "times_haproxy", by_run, runs, "HAProxy", "cpu_us")
    return row


def add_ratio(row: dict, name: str, by_run: dict, runs: list, other: str, figure: str) -> None:
    """Each run against the other target's in the same round."""
    pairs = [(run, by_run.get((run["round"], run["workload"], other))) for run in runs]
    ratios = [run[figure] / base[figure] for run, base in pairs if base and base[figure]]
    if ratios:
        row[name] = median(ratios)


def tables(result: dict) -> str:
    return "\n".join([about(result), "", *workload_table(result), "", *memory_table(result)])


def about(result: dict) -> str:
    machine = result["machine"]
    versions = ", ".join(result["versions"].values())
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['kernel']}; {versions}.\n"
        f"Medians of {result['rounds']} rounds, ratios within a round; CPU and system calls are per command,\n"
        "× direct compares kops/s and × HAProxy the target's CPU. `direct` is a cluster client, HAProxy relays to\n"
        "one node. With 64 KiB `direct` is one node too; MSET spans slots only in proxy and Envoy."
    )


def workload_table(result: dict) -> list[str]:
    shown = [name for name in HEADINGS if any(name in row for row in result["rows"])]
    lines = ["| workload | target | " + " | ".join(HEADINGS[name][0] for name in shown) + " |"]
    lines.append("|---|---|" + "---:|" * len(shown))
    last = ""
    for row in result["rows"]:
        cells = [cell(row.get(name), HEADINGS[name][1]) for name in shown]
        workload = row["workload"] if row["workload"] != last else ""
        lines.append(f"| {workload} | {row['target']} | " + " | ".join(cells) + " |")
        last = row["workload"]
    return lines


def cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def memory_table(result: dict) -> list[str]:
    lines = ["| target | resident MiB at start | KiB per idle client |", "|---|---:|---:|"]
    for target, size in result["memory"].items():
        lines.append(f"| {target} | {size['start_mib']:.1f} | {size['client_kib']:.1f} |")
    return lines


def chart(result: dict) -> str:
    """Bars of CPU time per command. The workloads differ by a hundred times, so each has its scale."""
    groups: dict[str, list[dict]] = {}
    for row in result["rows"]:
        if "cpu_us" in row:
            groups.setdefault(row["workload"], []).append(row)
    body, y = [], 58
    for workload, group in groups.items():
        body.append(text(14, y + 12, workload, "font-weight='600'"))
        longest = max(row["cpu_us"] for row in group)
        for row in group:
            body += bar(y, row, 380 * row["cpu_us"] / longest)
            y += 18
        y += 12
    machine = result["machine"]
    title = "CPU time of the proxy per command, µs (shorter is better)"
    under = f"each workload on its own scale; {machine['cores']} cores, {machine['kernel']}"
    heading = [text(14, 24, title, "font-size='15' font-weight='600'"), text(14, 42, under)]
    start = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 760 {y}' width='760' height='{y}'"
        " font-family='sans-serif' font-size='12'>"
    )
    background = f"<rect width='760' height='{y}' fill='#ffffff'/>"
    return "\n".join([start, background, *heading, *body, "</svg>"]) + "\n"


def bar(y: int, row: dict, width: float) -> list[str]:
    colour = COLOURS[row["target"]]
    return [
        text(280, y + 12, row["target"], "text-anchor='end'"),
        f"<rect x='288' y='{y + 1}' width='{width:.1f}' height='14' fill='{colour}'/>",
        text(294 + width, y + 12, f"{row['cpu_us']:.2f}"),
    ]


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f"<text x='{x:.0f}' y='{y:.0f}' fill='#202124' {more}>{escape(words)}</text>"
