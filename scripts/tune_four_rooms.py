"""Choose the settings of every arm on FourRooms-15, eight settings each, on seeds and layouts that no comparison uses.

    python scripts/tune_four_rooms.py                    # all arms, one after the other; goes on where it stopped
    python scripts/tune_four_rooms.py --arms sil bonus   # some, so that two processes can share the work

The score of a setting is the mean area under the success curve of 16 seeds over 20,000 steps and four tasks: the default layout,
two random ones, and a random start and goal in every episode. PPO's own settings are chosen on the arm `none` and shared by all
arms; there the score is that of the default layout over 60,000 steps, since few of its seeds see the goal sooner. The last two
settings of the other arms were added to the best of the first six: for arms that recall, how many ways to choose among.
Prints and writes `runs/tune/<arm>.json`.
"""

import argparse
import itertools
import json
import pathlib

import torch

from recall_traces.cli import main

FOLDER = pathlib.Path("runs/tune")
TASKS: dict[str, list[str]] = {
    "default": [],
    "layout-101": ["--env.layout-seed", "101"],
    "layout-102": ["--env.layout-seed", "102"],
    "random": ["--env.random-start", "--env.random-goal"],
}
IMITATION = [
    ["--recall.imitation-ratio", str(r), "--recall.recent-episodes", str(episodes)]
    for r, episodes in itertools.product((0.5, 1, 2), (5, 20))
]


def choosing(*best: str) -> list[list[str]]:
    return [[*best, "--recall.candidates", str(k)] for k in (1, 32)]


SETTINGS: dict[str, list[list[str]]] = {
    "none": [
        ["--agent.learning-rate", str(rate), "--agent.ent-coef", str(ent)]
        for rate, ent in itertools.product((1e-3, 2e-3, 3e-3), (0.01, 0.03))
    ],
    "sil": [
        ["--sil.imitation-ratio", str(r), "--sil.imitation-coefficient", str(c)]
        for r, c in itertools.product((0.5, 1, 2), (1.0, 3.0))
    ]
    + [["--sil.imitation-ratio", "2", "--sil.imitation-coefficient", str(c)] for c in (0.3, 0.5)],
    "bonus": [["--bonus.coefficient", str(c)] for c in (0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.007, 0.015)],
    "sil+bonus": [
        ["--sil.imitation-ratio", str(r), "--bonus.coefficient", str(c)] for r, c in itertools.product((0.5, 1, 2), (0.01, 0.03))
    ]
    + [["--sil.imitation-ratio", "1", "--bonus.coefficient", str(c)] for c in (0.007, 0.015)],
    "own-traces": IMITATION + choosing("--recall.imitation-ratio", "1", "--recall.recent-episodes", "5"),
    "recall": IMITATION + choosing("--recall.imitation-ratio", "1", "--recall.recent-episodes", "20"),
    "recall-return": [
        ["--recall.imitation-ratio", str(r), "--recall.trace-length", str(length)]
        for r, length in itertools.product((0.5, 1, 2), (60, 100))
    ]
    + choosing("--recall.imitation-ratio", "2", "--recall.trace-length", "100"),
    "recall-oracle": IMITATION + choosing("--recall.imitation-ratio", "1", "--recall.recent-episodes", "20"),
    "recall+bonus": [
        ["--recall.imitation-ratio", str(r), "--bonus.coefficient", str(c)]
        for r, c in itertools.product((0.5, 1, 2), (0.01, 0.03))
    ]
    + choosing("--recall.imitation-ratio", "1", "--bonus.coefficient", "0.01"),
}


def score(arm: str, number: int, setting: list[str]) -> dict[str, float]:
    """Area under the success curve of each task, mean over seeds, and the mean over tasks."""
    areas = {}
    for task, options in TASKS.items() if arm != "none" else [("default", [])]:
        out = FOLDER / f"{arm}-{number}" / task
        steps = "60000" if arm == "none" else "20000"
        common = ["--seeds", "16", "--seed", "1000", "--steps", steps, "--out", str(out), "--quiet"]
        if "--recall.candidates" not in setting:
            common += ["--recall.candidates", "8"]
        code = main(["compare", "FourRooms-15", "--agent", "ppo", "--arms", arm, *common, *options, *setting])
        assert not code, f"compare failed with exit code {code}"
        areas[task] = float(json.loads((out / "comparison.json").read_text())["arms"][arm]["area"]["mean"])
    return {"mean": sum(areas.values()) / len(areas)} | areas


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for arm in parser.parse_args().arms:
        scores = {" ".join(setting): score(arm, number, setting) for number, setting in enumerate(SETTINGS[arm])}
        (FOLDER / f"{arm}.json").write_text(json.dumps(scores, indent=1))
        for setting, areas in sorted(scores.items(), key=lambda item: -item[1]["mean"]):
            print(f"{arm:14s} {setting:70s}", *(f"{task} {area:.3f}" for task, area in areas.items()), flush=True)
