"""What was measured on: interpreter, kernel, processor, and the folders that lie in memory and on disk."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from reedbed.common.errors import InvalidArgument, ResourceExhausted
from reedbed.common.limits import GIB

SPACE_WANTED: Final = 4 * GIB  # what a run may need at any time, with some to spare
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_MOUNTS: Final = Path("/proc/mounts")


class Machine(msgspec.Struct):
    """Facts that a report names."""

    python: str
    interpreter: str
    optimised: str
    kernel: str
    processor: str
    cores: int
    memory: int  # bytes


def machine() -> Machine:
    """This machine and interpreter."""
    return Machine(
        python=platform.python_version(),
        interpreter=os.path.realpath(sys.executable),
        optimised=optimised(),
        kernel=f"{platform.system()} {platform.release()}",
        processor=processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def optimised() -> str:
    """Whether this interpreter was built with optimisation, as far as it tells."""
    if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")):
        return "built with --enable-optimizations"
    real = os.path.realpath(sys.executable)
    if real.startswith("/usr/bin/") and Path("/etc/debian_version").exists():
        return "Debian's build, which is profile-guided"  # by its own rules file, not by configure's flag
    return "built without --enable-optimizations: 1.2 to 2 times slower"


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def mounts() -> list[tuple[str, str]]:
    """Mount points and their kinds of file system."""
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    return [(parts[1].replace("\\040", " "), parts[2]) for parts in fields if len(parts) > 2]


def kind_of(folder: Path) -> tuple[str, str]:
    """The kind of file system that a folder lies on, and where that is mounted."""
    best, kind = "", "unknown"
    where = str(folder.resolve())
    for mount, fs in mounts():
        if (where == mount or where.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, fs
    return kind, best


def in_memory(folder: Path) -> bool:
    """Whether a folder lies in memory."""
    return kind_of(folder)[0] in _IN_MEMORY


def medium(folder: Path) -> str:
    """The kind of file system that a folder lies on, in words."""
    kind, mount = kind_of(folder)
    return f"{kind} at {mount}" + (" (in memory)" if kind in _IN_MEMORY else "")


def ram_folder() -> Path:
    """A folder in memory that we may write into; InvalidArgument if there is none."""
    candidates = [Path("/dev/shm"), *(Path(mount) for mount, kind in mounts() if kind in _IN_MEMORY)]
    usable = [path for path in candidates if path.is_dir() and os.access(path, os.W_OK | os.X_OK) and in_memory(path)]
    if not usable:
        raise InvalidArgument(
            "there is no file system in memory that may be written to",
            hint="Mount a tmpfs at /dev/shm, name one with --ram-dir, or measure on disk alone with --medium disk",
        )
    return max(usable, key=free_space)


def disk_folder() -> Path:
    """A folder on disk that we may write into; InvalidArgument if there is none."""
    for path in (Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd(), Path.home()):
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK) and not in_memory(path):
            return path
    raise InvalidArgument(
        "no folder on a disk was found", hint="Name one with --disk-dir, or measure in memory alone with --medium ram"
    )


def free_space(folder: Path) -> int:
    """Bytes that the file system of a folder has left."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def check_space(folder: Path, wanted: int = SPACE_WANTED) -> None:
    """ResourceExhausted where a folder's file system has too little room for a run."""
    free = free_space(folder)
    if free < wanted:
        raise ResourceExhausted(
            f"{free / GIB:.1f} GiB are free, and the benchmark may need {wanted / GIB:.1f}", where=str(folder)
        )
