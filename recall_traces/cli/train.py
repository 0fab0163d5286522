"""`recall-traces train`: one arm, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from tyro import MISSING

from recall_traces.cli.experiment import Outcome, run
from recall_traces.cli.options import TrainOptions
from recall_traces.cli.resolve import parse_run

DESCRIPTION = """Train one arm over seeds, and write curves, policies and configuration into a folder.

examples:
  recall-traces train ppo FourRooms-19 --arm recall --seeds 4 --steps 150000
  recall-traces train ppo CartPole-v1 --agent.learning-rate 3e-4 --out runs/cartpole
  recall-traces train ppo FourRooms-19 --arm recall --env.slip 0.2 --recall.trace-length 80
  recall-traces train ppo MountainCarContinuous-v0 --arm recall --env.goal-velocity 0.01"""


def main(argv: Sequence[str]) -> Outcome:
    """Run the subcommand.

    Raises:
        UsageError: the command line asks for something that cannot be.
    """
    options = parse_run(argv, TrainOptions(learner=MISSING, env_id=MISSING), "train", DESCRIPTION, ("learner", "env_id"))
    if options is None:
        return Outcome()
    folder, outcome = run(options, [options.arm], ["train", *argv], "train", go_on=False)
    if not outcome.exit_code:
        print(folder.path)
    return outcome
