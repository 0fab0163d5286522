"""Which folder a run goes into, and whether it may."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.options import CompareOptions, TrainOptions, configuration, default_configuration
from recall_traces.runs import RunFolder, as_json, first_difference, new_run_path


def open_folder(
    options: TrainOptions | CompareOptions, env_id: str, device: str | None, call: Mapping[str, Any], *, go_on: bool
) -> RunFolder:
    """Open the folder that the options name, or a new one, and keep other processes out of it until its `release`.

    Args:
        options: Where, and whether to throw away what is there.
        env_id: The environment.
        device: Where everything is computed; None to go on with a run wherever it was computed.
        call: The command line and so on, for the record.
        go_on: Whether a run of the same configuration may be continued.

    Raises:
        UsageError: there are results that may neither be continued nor thrown away, or nothing can be written there.
    """
    try:
        folder = RunFolder(options.out or new_run_path(env_id))
        with contextlib.ExitStack() as stack:
            folder.claim()
            stack.callback(folder.release)
            _prepare(folder, options, device, go_on)
            folder.start(options.task(env_id), configuration(options, device or "cpu"), call)
            stack.pop_all()
    except BlockingIOError as error:
        raise UsageError(f"another process is writing into {options.out}; wait for its end, or stop it") from error
    except ValueError as error:
        raise UsageError(f"{one_line(error).rstrip('.')}; choose another --out, or --overwrite it") from error
    except OSError as error:
        raise UsageError(f"cannot write to {options.out or 'runs'}: {error.strerror or one_line(error)}") from error
    return folder


def _prepare(folder: RunFolder, options: TrainOptions | CompareOptions, device: str | None, go_on: bool) -> None:
    """Clear a folder, or load it, if one may."""
    if options.overwrite:
        folder.clear()
        return
    if not folder.has_results():
        return
    if not go_on:
        raise UsageError(
            f"{folder.path} has results already; `recall-traces resume {folder.path}` goes on with them; or choose another "
            "--out, or --overwrite them"
        )
    folder.load()
    folder.check_tables()
    found = _difference(folder, options, device)
    if found is not None:
        name, old, new = found
        raise UsageError(
            f"{folder.path} has results with another configuration: {name} is {json.dumps(old)} there and "
            f"{json.dumps(new)} here; choose another --out, or --overwrite them"
        )


def _difference(folder: RunFolder, options: TrainOptions | CompareOptions, device: str | None) -> tuple[str, Any, Any] | None:
    """In what the configuration of a run differs from the options."""
    recorded = folder.record["configuration"]
    device = device or str(recorded.get("device"))
    settings, defaults = (as_json(f(options, device)) for f in (configuration, default_configuration))
    return first_difference(recorded, settings, defaults)
