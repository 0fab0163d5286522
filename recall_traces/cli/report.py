"""`recall-traces report`: one HTML file of runs, for a browser without a network."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro import MISSING
from tyro.conf import Positional, arg

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.parsing import parse_plain
from recall_traces.cli.plot import Metric, usual_folder, usual_metric
from recall_traces.runs import RunFolder, as_json

if TYPE_CHECKING:
    from recall_traces.curves import Curves
    from recall_traces.events import Scalars
    from recall_traces.report import Origin, Picture, Setting

DESCRIPTION = """Write one HTML file about one or more runs: curves, statistics, steps to a threshold, what was recalled, how good
the model was, the configuration, versions, and how to do it again. It opens from disk and asks no network.

Runs are those that plot takes. What a folder does not have is left out, and a sentence says so.

examples:
  recall-traces report runs/x
  recall-traces report runs/x runs/y --out both.html
  recall-traces report runs/cartpole --metric episode_return --threshold 475"""
REPORT = "report.html"
MOST_PICTURES = 6
"""Of what was recalled, about 150 kB each."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write a report of runs."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
    """Run folders, or files like their curves.csv; or folders and files of Stable-Baselines3."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The report, an html. By default report.html in the folder of a single run, else ./report.html."""
    metric: Metric | None = None
    """What the statistics are about. By default success if every arm knows it, else episode_return."""
    threshold: Annotated[float | None, arg(metavar="X")] = None
    """What a seed must reach in two evaluations in a row to have got there. By default 0.9 for success, and none for a return."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: a run is missing or holds no curves, or the report cannot be written.
    """
    options = parse_plain(argv, ReportOptions(runs=MISSING), "report", DESCRIPTION, "report runs/x", several=True)
    if options is None:
        return
    # After the command line was found good: scipy, matplotlib and torch are slow.
    from recall_traces.curves import read_curves
    from recall_traces.report import Report, write_report

    out = options.out or usual_folder(options.runs) / REPORT
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is no name of a report; it must end in .html")
    try:
        curves = read_curves(*options.runs, prefix_clashes=True)
        remarks: list[str] = []
        runs = list(open_folders(options.runs, remarks))
        report = Report(
            curves=curves,
            metric=options.metric or usual_metric(curves),
            threshold=options.threshold,
            scalars=read_training(runs, curves, remarks),
            pictures=draw_recalled(runs, remarks),
            origins=[origin(run) for run in runs],
            remarks=remarks,
        )
        write_report(report, out)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    print(out)


def open_folders(paths: Sequence[Path], remarks: list[str]) -> Iterator[RunFolder]:
    """The run folders among the paths, each once; what has no record is said in `remarks`."""
    for path in dict.fromkeys(path if path.is_dir() else path.parent for path in paths):
        try:
            yield RunFolder(path).load()
        except ValueError as error:
            remarks.append(f"{path} tells neither configuration nor versions: {one_line(error)}.")


def read_training(runs: Sequence[RunFolder], curves: Sequence[Curves], remarks: list[str]) -> dict[str, dict[str, Scalars]]:
    """Scalars of the learner and its model over env steps, by task and by the arm's name in the curves."""
    from recall_traces.events import read_scalars

    found: dict[str, dict[str, Scalars]] = {}
    for run in runs:
        task = next((task for task in curves if task.task == run.record.get("task")), None)
        for arm in run.record["arms"] if task is not None else ():
            # Two runs with an arm of the same name: there it is called after its folder too.
            whole = f"/{run.path.resolve().as_posix()}/{arm}"
            names = [name for name in task.arms if whole.endswith(f"/{name}")] if task is not None else []
            try:
                scalars = read_scalars(run.tensorboard_path(arm))
            except ValueError as error:
                remarks.append(f"{one_line(error)}.")
                continue
            if task is not None and names:
                kept = {tag: series for tag, series in scalars.items() if tag.startswith(("recall/", "train/"))}
                found.setdefault(task.task, {})[max(names, key=len)] = kept
    return found


def draw_recalled(runs: Sequence[RunFolder], remarks: list[str]) -> list[Picture]:
    """What the arms that recall hold, of the first seed; where that cannot be drawn, `remarks` says why."""
    from recall_traces.cli.saved import open_arm, recalls
    from recall_traces.cli.traces import gather
    from recall_traces.report import Picture
    from recall_traces.trace_picture import draw_traces

    pictures: list[Picture] = []
    arms = [(run, arm) for run in runs for arm in run.record["arms"] if recalls(arm)]
    for run, arm in arms[:MOST_PICTURES]:
        try:
            with contextlib.closing(open_arm(run.path, arm, 0, recalling=True)) as loaded, tempfile.TemporaryDirectory() as place:
                scene, title, strip = gather(loaded, 0)
                file = draw_traces(scene, Path(place) / "traces.png", title, strip)
                pictures.append(Picture(title, file.read_bytes()))
        except (ValueError, UsageError, MemoryError, OSError) as error:
            remarks.append(f"No picture of what {arm} recalls: {one_line(error)}.")
    if len(arms) > MOST_PICTURES:
        left = len(arms) - MOST_PICTURES
        remarks.append(f"No picture of what {left} further arms recall; recall-traces traces draws them one by one.")
    return pictures


def origin(run: RunFolder) -> Origin:
    """Where the numbers of a run come from; its settings beside what they are unless somebody changes them."""
    from recall_traces.report import Origin

    recorded, remark = run.record["configuration"], ""
    defaults: Mapping[str, Any] | None = None
    try:
        defaults = usual_configuration(run.record)
    except (ValueError, UsageError) as error:
        remark = f"It could not be compared with the defaults: {one_line(error)}."
    return Origin(str(run.path), run.record, list(_settings(recorded, defaults)), remark)


def usual_configuration(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same subcommand, learner and environment without any option.

    Raises:
        ValueError: this version does not know them.
        UsageError: likewise.
    """
    from recall_traces.cli.load import read_options
    from recall_traces.cli.options import CompareOptions, TrainOptions, configuration
    from recall_traces.cli.resolve import parse_run

    options = read_options(record)
    first = next(iter(record.get("calls") or [{}]))
    plain: TrainOptions | CompareOptions | None
    if first.get("command") == "train":
        words, default = [options.learner, options.env_id], TrainOptions(learner=MISSING, env_id=MISSING)
        plain = parse_run(words, default, "train", "", ("learner", "env_id"))
    else:
        plain = parse_run([options.env_id, "--agent", options.learner], CompareOptions(), "compare", "", ("env_id",))
    assert plain is not None
    found: dict[str, Any] = as_json(configuration(plain, str(record["configuration"].get("device"))))
    return found


def _settings(recorded: Mapping[str, Any], defaults: Mapping[str, Any] | None, prefix: str = "") -> Iterator[Setting]:
    from recall_traces.report import Setting

    for name, value in recorded.items():
        default = None if defaults is None else defaults.get(name)
        if isinstance(value, Mapping):
            yield from _settings(
                value, None if defaults is None else default if isinstance(default, Mapping) else {}, f"{prefix}{name}."
            )
        else:
            differs = defaults is not None and value != default
            yield Setting(f"{prefix}{name}", _text(value), _text(default) if differs else None)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
