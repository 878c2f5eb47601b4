"""The memory, processors and instructions that a runtime has here, or that a container allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESSORS = Path("/sys/devices/system/cpu")


def memory_bytes() -> int:
    """Physical memory, or the lowest cgroup limit of this process if that is less."""
    limits = [psutil.virtual_memory().total]
    for directory in _own_cgroups():
        for name in ("memory.max", "memory.limit_in_bytes"):  # cgroup v2, v1
            with suppress(OSError, ValueError):  # the file does not exist, or contains "max"
                limits.append(int((directory / name).read_text()))
    return min(limits)


def processors() -> float:
    """Processors that this process may use: those it is bound to, or its cgroup's share of them, such as 2.5."""
    try:
        shares = [float(len(os.sched_getaffinity(0)))]
    except AttributeError:  # not on Linux
        shares = [float(os.cpu_count() or 1)]
    for directory in _own_cgroups():
        with suppress(OSError, ValueError):
            quota, period = (directory / "cpu.max").read_text().split()
            shares.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                shares.append(int(quota) / int(period))
    return min(shares)


def physical_cores() -> int:
    """Cores that this process may use, at least one. Two processors of one core count once, because runtimes gain
    nothing from the second; a cgroup's share of the processors is rounded down."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return max(1, min(psutil.cpu_count(logical=False) or 1, int(processors())))
    cores = {_core(number) for number in usable}
    return max(1, min(len(cores), int(processors())))


def _core(processor: int) -> tuple[str, ...]:
    """What identifies the core of a processor; the processor itself if the system does not tell."""
    topology = _PROCESSORS / f"cpu{processor}" / "topology"
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(processor),)


def default_threads() -> int:
    """Threads of a runtime by default: `OMP_NUM_THREADS` if it is set, else the machine's physical cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(chosen) if chosen.isdecimal() and int(chosen) > 0 else physical_cores()


def processor_flags() -> frozenset[str]:
    """The instructions of the processor as Linux names them ("avx2", "amx_int8", on Arm "asimd"); empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(flags.split())
    return frozenset()


def _own_cgroups() -> Iterator[Path]:
    """The directories of this process's cgroups and of their ancestors, whose limits apply too."""
    yield _CGROUPS
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = _CGROUPS / controllers
            own = root / path.lstrip("/")
            # In a container the path may be the host's and not exist here; the ancestors are tried as well.
            yield from (parent for parent in (own, *own.parents) if parent.is_relative_to(root))
