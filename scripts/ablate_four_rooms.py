"""What matters in recall traces: one thing changed at a time, and the paper's choices together, on FourRooms-19.

    python scripts/ablate_four_rooms.py            # goes on where it stopped; about 40 minutes on one core

16 seeds, seed 0, 50,000 steps. Each row is one `recall-traces compare`, in `runs/ablation/<name>`. Prints a table.
"""

import argparse
import json
import pathlib

import torch

from recall_traces.cli import main

FOLDER = pathlib.Path("runs/ablation")
ROWS: dict[str, tuple[str, list[str]]] = {
    "recall (default)": ("recall", []),
    "source novelty": ("recall", ["--recall.source", "novelty"]),
    "source return": ("recall", ["--recall.source", "return"]),
    "source critic": ("recall", ["--recall.source", "critic"]),
    "own record, source auto": ("own-traces", []),
    "own record, source novelty": ("own-traces", ["--recall.source", "novelty"]),
    "own record, source return": ("own-traces", ["--recall.source", "return"]),
    "own record, source critic": ("own-traces", ["--recall.source", "critic"]),
    "fit on top": ("recall", ["--recall.fit-on", "top"]),
    "fit on top, source return (the paper's)": (
        "recall",
        ["--recall.fit-on", "top", "--recall.source", "return", "--recall.candidates", "1"],
    ),
    "no choosing": ("recall", ["--recall.candidates", "1"]),
    "own record, no choosing": ("own-traces", ["--recall.candidates", "1"]),
    "choose among 2": ("recall", ["--recall.candidates", "2"]),
    "choose among 32": ("recall", ["--recall.candidates", "32"]),
    "network instead of counts": ("recall", ["--recall.model.kind", "network"]),
    "trace length 15": ("recall", ["--recall.trace-length", "15"]),
    "trace length 30": ("recall", ["--recall.trace-length", "30"]),
    "trace length 100": ("recall", ["--recall.trace-length", "100"]),
    "coefficient 0.1": ("recall", ["--recall.imitation-coefficient", "0.1"]),
    "coefficient 0.3": ("recall", ["--recall.imitation-coefficient", "0.3"]),
    "coefficient 3": ("recall", ["--recall.imitation-coefficient", "3"]),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    print("| change | seeds at 90% | median steps to 90% | area |\n|---|---|---|---|")
    for name, (arm, setting) in ROWS.items():
        out = FOLDER / "".join(c if c.isalnum() else "-" for c in name)
        main(
            [
                "compare",
                "FourRooms-19",
                "--arms",
                arm,
                "--seeds",
                "16",
                "--steps",
                "50000",
                "--out",
                str(out),
                "--quiet",
                *setting,
            ]
        )
        result = json.loads((out / "comparison.json").read_text())["arms"][arm]
        steps, area = result["steps_to_threshold"], result["area"]
        median = "never" if steps["censored"] else f"{steps['median'] / 1000:.1f}k"
        low, high = area["interval"]
        print(
            f"| {name} | {steps['reached']} of {result['seeds']} | {median} | {area['mean']:.3f} ({low:.3f}, {high:.3f}) |",
            flush=True,
        )
