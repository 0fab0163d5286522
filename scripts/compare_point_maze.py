"""SAC in point mazes, all arms: first settings on other seeds, then the comparison.

    python scripts/compare_point_maze.py --tune           # settings of every arm on other seeds, 8 of them; prints the scores
    python scripts/compare_point_maze.py --tune --arms per --settings 3 4 --tasks Medium-uniform   # some of them on one task
    python scripts/compare_point_maze.py                  # all tasks, 16 seeds; goes on where it stopped
    python scripts/compare_point_maze.py --tasks U-far --arms recall none   # some, so that two processes share the work
    python scripts/compare_point_maze.py --join           # pictures and statistics of what is there, no training

Evaluation always begins at the far start. Runs lie in `runs/point_maze/<task>/<arm>`, each one `recall-traces compare` that
anyone can type; two to five minutes per arm of U on one core, three times that for Medium. The score in tuning is the mean area
under the success curve: over 12,000 steps of U from the far start and from uniform starts, and over 40,000 of Medium.
"""

import argparse
import json
import pathlib

import torch

from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves
from recall_traces.plotting import plot_comparison

FOLDER = pathlib.Path("runs/point_maze")
SEED, TUNING_SEED = 61, 500
UNIFORM = ["--env.start", "uniform", "--eval-env.start", "far"]
TASKS: dict[str, list[str]] = {
    "U-far": ["PointMaze-U", "--steps", "30000"],
    "U-uniform": ["PointMaze-U", "--steps", "30000", *UNIFORM],
    "Medium-uniform": ["PointMaze-Medium", "--steps", "60000", *UNIFORM],
}
TUNING_STEPS = {"U-far": "12000", "U-uniform": "12000", "Medium-uniform": "40000"}
TITLES = {
    "U-far": "PointMaze-U from the far start",
    "U-uniform": "PointMaze-U, uniform starts in training",
    "Medium-uniform": "PointMaze-Medium, uniform starts in training",
}


def options(*lines: str) -> list[list[str]]:
    return [line.split() for line in lines]


COEFFICIENT, ONE_WAY, FASTER = "--recall.imitation-coefficient", "--recall.candidates 1", "--agent.learning-rate 2e-3"
UPDATES, BONUS, VISITS = "--recall.buffer-updates", "--bonus.coefficient", "--bonus.kind visits --bonus.coefficient"
CEILING = "--recall.novelty-ceiling"
BEFORE = f"{CEILING} 0.8 {UPDATES} 1"
"""What the preset had when most settings of `own-traces` were tried."""
TRIED: dict[str, list[list[str]]] = {
    "none": options("", "--agent.learning-rate 3e-4", "--agent.ent-coef 0.01", FASTER),
    "recall": options("", *(f"{COEFFICIENT} {value}" for value in ("1.0", "0.1")), f"{UPDATES} 2", FASTER),
    "own-traces": options(
        *(f"{COEFFICIENT} {value} {BEFORE}" for value in ("1.0", "0.3", "3.0")),
        f"{COEFFICIENT} 3.0 {BEFORE} {ONE_WAY}",
        f"{COEFFICIENT} 3.0 {BEFORE} {ONE_WAY} {FASTER}",
        "",
        ONE_WAY,
        f"{COEFFICIENT} 3.0 {UPDATES} 1 {ONE_WAY}",
        f"{COEFFICIENT} 3.0 {CEILING} 0.8 {ONE_WAY}",
    ),
    "sil": options(
        *(f"--sil.imitation-coefficient {value}" for value in ("1.0", "0.3", "3.0", "10.0")),
        FASTER,
        "--sil.imitation-coefficient 30.0",
        f"--sil.imitation-coefficient 10.0 {FASTER}",
    ),
    "per": options(*(f"--per.alpha {alpha}" for alpha in ("0.6", "0.4", "0.8", "1.0")), f"--per.alpha 1.0 {FASTER}"),
    "bonus": options(
        *(f"{BONUS} {value}" for value in ("0.1", "0.03", "0.01", "0.003")),
        *(f"{VISITS} {value}" for value in ("0.1", "0.3")),
        f"{BONUS} 0.003 {FASTER}",
    ),
    "sil+bonus": options(
        *(f"{BONUS} {value}" for value in ("0.1", "0.03", "0.01", "0.003")),
        *(f"{VISITS} {value}" for value in ("0.1", "0.3")),
        f"{BONUS} 0.003 {FASTER}",
        *(f"{BONUS} 0.003 --sil.imitation-coefficient {value}" for value in ("10.0", "3.0", "30.0")),
        f"{BONUS} 0.003 --sil.imitation-coefficient 10.0 {FASTER}",
    ),
    "recall+bonus": options(
        *(f"{BONUS} {value}" for value in ("0.03", "0.01", "0.003")), f"{VISITS} 0.1", f"{BONUS} 0.003 {FASTER}"
    ),
    "recall+per": options(
        *(f"{COEFFICIENT} {value}" for value in ("1.0", "0.3", "3.0")), "--per.alpha 1.0", f"--per.alpha 1.0 {FASTER}"
    ),
}
"""What the tuning tries; of each arm the best also with the learning rate that suits `none`."""
BEST: dict[str, int] = {
    "none": 3,
    "recall": 0,
    "own-traces": 3,
    "sil": 3,
    "per": 4,
    "bonus": 6,
    "sil+bonus": 7,
    "recall+bonus": 2,
    "recall+per": 0,
}
"""What it chose."""
SETTINGS: dict[str, list[str]] = {arm: TRIED[arm][best] for arm, best in BEST.items()}


def run(task: list[str], arm: str, setting: list[str], seeds: int, seed: int, out: pathlib.Path) -> None:
    """Train one arm, unless that is done."""
    common = ["--agent", "sac", "--arms", arm, "--seeds", str(seeds), "--seed", str(seed), "--out", str(out), "--quiet"]
    code = main(["compare", *task, *common, *setting])
    assert not code, f"compare failed with exit code {code}"


def tune(arm: str, numbers: list[int], tasks: list[str]) -> None:
    """Print the scores of settings of an arm."""
    for number in numbers:
        areas, setting = {}, TRIED[arm][number]
        for task in tasks:
            out = FOLDER / "tune" / f"{arm}-{number}" / task
            run([*TASKS[task], "--steps", TUNING_STEPS[task]], arm, setting, 8, TUNING_SEED, out)
            areas[task] = float(json.loads((out / "comparison.json").read_text())["arms"][arm]["area"]["mean"])
        print(f"{arm:14s} {number} {' '.join(setting):45s}", *(f"{k} {v:.3f}" for k, v in areas.items()), flush=True)


def join(task: str) -> None:
    """Statistics and picture of the arms of a task that have been trained to the end."""
    folders = [folder for arm in SETTINGS if ((folder := FOLDER / task / arm) / "comparison.json").exists()]
    if folders:
        curves = read_curves(*folders)
        (FOLDER / task / "comparison.json").write_text(json.dumps(compare_arms(curves), indent=1))
        plot_comparison(curves, FOLDER / task / "curves.png", title=TITLES[task])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--settings", nargs="+", type=int, help="which of those that the tuning tries, from 0")
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        for arm in arguments.arms:
            tune(arm, arguments.settings or list(range(len(TRIED[arm]))), arguments.tasks)
    else:
        for task in arguments.tasks:
            for arm in arguments.arms if not arguments.join else ():
                run(TASKS[task], arm, SETTINGS[arm], 16, SEED, FOLDER / task / arm)
            join(task)
