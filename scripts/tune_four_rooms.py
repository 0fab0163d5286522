"""Choose the settings of every arm on FourRooms-15, six settings each, on seeds that no comparison uses.

    python scripts/tune_four_rooms.py                    # all arms, one after the other; goes on where it stopped
    python scripts/tune_four_rooms.py --arms sil bonus   # some, so that two processes can share the work

The score of a setting is the mean area under the success curve of 16 seeds over 20,000 steps. PPO's own settings are chosen on
the arm `none` and shared by all arms; there the score is over 60,000 steps, since few of its seeds see the goal sooner.
Prints and writes `runs/tune/<arm>.json`.
"""

import argparse
import itertools
import json
import pathlib

import torch

from recall_traces.cli import main

FOLDER = pathlib.Path("runs/tune")
IMITATION = [
    ["--recall.imitation-updates", str(u), "--recall.trace-length", str(length)]
    for u, length in itertools.product((4, 8, 16), (60, 100))
]
SETTINGS: dict[str, list[list[str]]] = {
    "none": [
        ["--agent.learning-rate", str(rate), "--agent.ent-coef", str(ent)]
        for rate, ent in itertools.product((1e-3, 2e-3, 3e-3), (0.01, 0.03))
    ],
    "sil": [
        ["--sil.imitation-updates", str(u), "--sil.imitation-coefficient", str(c)]
        for u, c in itertools.product((4, 8, 16), (1.0, 3.0))
    ],
    "bonus": [["--bonus.coefficient", str(c)] for c in (0.003, 0.01, 0.02, 0.03, 0.05, 0.1)],
    "sil+bonus": [
        ["--sil.imitation-updates", str(u), "--bonus.coefficient", str(c)] for u, c in itertools.product((4, 8, 16), (0.01, 0.03))
    ],
    "own-traces": IMITATION,
    "recall": IMITATION,
    "recall-return": IMITATION,
    "recall-oracle": IMITATION,
    "recall+bonus": [
        ["--recall.imitation-updates", str(u), "--bonus.coefficient", str(c)]
        for u, c in itertools.product((4, 8, 16), (0.01, 0.03))
    ],
}


def score(arm: str, number: int, setting: list[str]) -> float:
    """Mean area under the success curve."""
    out = FOLDER / f"{arm}-{number}"
    steps = "60000" if arm == "none" else "20000"
    common = ["--seeds", "16", "--seed", "1000", "--steps", steps, "--out", str(out), "--quiet"]
    code = main(["compare", "FourRooms-15", "--agent", "ppo", "--arms", arm, *common, *setting])
    assert not code, f"compare failed with exit code {code}"
    return float(json.loads((out / "comparison.json").read_text())["arms"][arm]["area"]["mean"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for arm in parser.parse_args().arms:
        scores = [(score(arm, number, setting), " ".join(setting)) for number, setting in enumerate(SETTINGS[arm])]
        (FOLDER / f"{arm}.json").write_text(json.dumps(scores, indent=1))
        for area, setting in sorted(scores, reverse=True):
            print(f"{arm:14s} area {area:.3f}  {setting}", flush=True)
