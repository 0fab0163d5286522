"""Print a comparison as a table in Markdown.

    python scripts/tables.py runs/four_rooms/19 [--arm recall]

Per arm: seeds that reached the threshold, median steps to it, area under the curve, and the probability that `--arm` needs fewer
steps than that arm; each with its 95% interval.
"""

import argparse
import json
import pathlib


def thousands(value: float | None) -> str:
    return "never" if value is None else f"{value / 1000:.1f}k"


def table(comparison: dict, arm: str) -> str:
    """Rows in the order of the file."""
    better = {pair["against"]: pair["probability_of_improvement"] for pair in comparison["pairs"] if pair["arm"] == arm}
    threshold, of_success = comparison["threshold"], comparison["metric"].endswith("success")
    level = "a return" if threshold is None else f"{threshold:.0%}" if of_success else f"{threshold:g}"
    lines = [f"| arm | seeds at {level} | median steps to {level} | area | P({arm} needs fewer steps) |", "|---|---|---|---|---|"]
    for name, result in comparison["arms"].items():
        steps, (low, high) = result["steps_to_threshold"], result["area"]["interval"]
        if steps is None:  # returns, for which no threshold was given
            lines.append(f"| `{name}` | | | {result['area']['mean']:.1f} ({low:.1f}, {high:.1f}) | |")
            continue
        median = f"{thousands(steps['median'])} ({', '.join(thousands(x) for x in steps['interval'])})"
        chance = better.get(name)
        versus = "" if chance is None else f"{chance['value']:.2f} ({chance['interval'][0]:.2f}, {chance['interval'][1]:.2f})"
        area = ", ".join(f"{x:.3f}" if of_success else f"{x:.1f}" for x in (result["area"]["mean"], low, high))
        area = area.replace(", ", " (", 1) + ")"
        lines.append(f"| `{name}` | {steps['reached']} of {result['seeds']} | {median} | {area} | {versus} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path, help="a run folder, or a comparison.json")
    parser.add_argument("--arm", default="recall")
    arguments = parser.parse_args()
    path = arguments.path / "comparison.json" if arguments.path.is_dir() else arguments.path
    print(table(json.loads(path.read_text()), arguments.arm))
