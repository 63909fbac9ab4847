"""`reedbed up` and `reedbed down`: a whole cluster on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from reedbed.cli.output import json_option, print_json, say
from reedbed.cli.supervisor import (
    POLL_S,
    STOP_TIMEOUT_S,
    ClusterState,
    already_running,
    check_catalog,
    check_folder,
    device_folders,
    error_in,
    holders,
    run_cluster,
    running_state,
)
from reedbed.common.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from reedbed.common.limits import DEFAULT_ENDPOINT, DEFAULT_PORT
from reedbed.ec.profiles import DEFAULT_PROFILE, parse_profile

DEVICES_DEFAULT: Final = 6


def default_folder() -> Path:
    """Where a local cluster lies unless told otherwise: below the user's data folder, as XDG says."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "reedbed"


_dir_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the cluster [default: ~/.local/share/reedbed].",
)


def _print_state(state: ClusterState, folder: Path, as_json: bool, *, detached: bool = False) -> None:
    if as_json:
        fields = msgspec.to_builtins(state)
        fields.pop("supervisor")
        print_json(fields)
        return
    stop = f"reedbed down --dir {folder}" if detached else "Ctrl-C"
    say(f"Reedbed is up at {state.endpoint}: {len(state.devices)} devices in {folder}. Stop it with: {stop}")
    if state.endpoint != DEFAULT_ENDPOINT:
        say(f"Other commands find it after: export REEDBED_ENDPOINT={state.endpoint}")


def _device_count(folder: Path, devices: int | None) -> int:
    there = len(device_folders(folder)) if folder.is_dir() else 0
    if devices is not None and devices < there:
        raise InvalidArgument(
            f"{folder} holds {there} devices, not {devices}", hint="Leave --devices out to start those that are there"
        )
    return devices or there or DEVICES_DEFAULT


@click.command(short_help="Start a whole cluster on this machine.")
@_dir_option
@click.option("--devices", type=click.IntRange(1, 64), default=None, help="Devices, a process each [default: 6].")
@click.option("--profile", default=None, metavar="rs-K-M", help="Default code of a new cluster [default: rs-4-2].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the daemons bind to.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of catalogd; 0: any free one.",
)
@click.option("--detach", is_flag=True, help="Return when the cluster is ready, and leave it running.")
@json_option
def up(
    folder: Path | None, devices: int | None, profile: str | None, host: str, port: int, detach: bool, as_json: bool
) -> None:
    """Start a whole cluster on this machine: catalogd and one storaged per device.

    Runs in the foreground until Ctrl-C. Started again on the same folder, it serves the same data.
    """
    folder = (folder or default_folder()).absolute()
    check_folder(folder)
    check_catalog(folder)
    count = _device_count(folder, devices)
    code = parse_profile(profile) if profile else DEFAULT_PROFILE
    new = not (folder / "catalog").exists()
    if (new or profile) and code.n > count:
        raise InvalidArgument(
            f"profile {code.name} needs {code.n} devices, and there are {count}",
            hint=f"Say --devices {code.n}, or choose a smaller profile",
        )
    chosen = code.name if new or profile else None  # a cluster keeps its default; catalogd refuses another one
    if detach:
        _detach(folder, count, chosen, host, port, as_json)
        return

    asyncio.run(
        run_cluster(
            folder,
            devices=count,
            profile=chosen,
            host=host,
            port=port,
            ready=lambda state: _print_state(state, folder, as_json),
            say=lambda text: say(f"reedbed: {text}", err=True),
        )
    )


def _detach(folder: Path, devices: int, profile: str | None, host: str, port: int, as_json: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(NotFound, Unavailable):
        running_state(folder)
        raise already_running(folder)
    command = [sys.executable, "-m", "reedbed.cli", "up", "--dir", str(folder), "--devices", str(devices)]
    command += ["--host", host, "--port", str(port), "--json", *(["--profile", profile] if profile else [])]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
    except KeyboardInterrupt:
        process.terminate()
        raise
    if not ready:
        code = process.wait()
        words = (folder / "up.log").read_text("utf-8", "replace")
        raise error_in(words) or Unavailable(
            f"the cluster did not start: exit code {code}", where=str(folder / "up.log"), retryable=False
        )
    _print_state(running_state(folder), folder, as_json, detached=True)


@click.command()
@_dir_option
@json_option
def down(folder: Path | None, as_json: bool) -> None:
    """Stop the cluster that `reedbed up` runs on a folder, with its daemons that were started again by hand.

    Its data stays.
    """
    folder = (folder or default_folder()).absolute()
    state = running_state(folder)
    # one that is gone was killed, and its daemons are ending by themselves
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.supervisor, signal.SIGTERM)
    deadline = time.monotonic() + 2 * STOP_TIMEOUT_S
    told: set[int] = set()
    while time.monotonic() < deadline:
        try:
            running_state(folder)
        except NotFound:
            left = holders(folder)  # daemons that died and were started again by hand
            for pid in left.keys() - told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            told |= left.keys()
            if not left:
                if as_json:
                    print_json({"stopped": state.endpoint})
                else:
                    say(f"Stopped the cluster in {folder}.")
                return
        except Unavailable:
            pass
        time.sleep(POLL_S)
    raise DeadlineExceeded(f"the cluster on {folder} is still stopping after {2 * STOP_TIMEOUT_S:g} s")
