"""What this machine offers, what fastgru makes of it, and what it keeps: threads and memory.

Reads /proc and /sys when asked; what a system does not tell is None or left out. Refuses to change
anything but the thread count and the scratch memory.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass

from fastgru import _core, _startup
from fastgru.arrays import byte_text
from fastgru.options import positive
from fastgru.precision import PRECISIONS


@dataclass(frozen=True)
class CpuInfo:
    """What `cpu_info` found; `print` shows it as a table."""

    cpu: str | None
    """The processor's name."""
    isa_levels: dict[str, bool]
    """ISA levels compiled into this build, best first, and whether this CPU runs each."""
    isa: str | None
    """What a new model gets; None if FASTGRU_ISA names what is unknown or cannot run here."""
    kernels: dict[str, str]
    """What its layers run on, by precision: the level, or one with more instructions."""
    cores_affinity: int
    """Cores that this process may run on."""
    cores_quota: float | None
    """Cores' worth of CPU time that its cgroup allows; None without a quota."""
    num_threads: int
    """The most threads that a call uses by default; 1 without OpenMP."""
    caches: dict[str, int]
    """Bytes of each cache level, L1d, L2, L3, as one core sees them."""
    openmp_runtime: str
    """libgomp, libomp, or none: then every call runs on one thread."""
    wait_policy: str
    """How long worker threads spin after a call, and who decided it."""
    huge_pages: str | None
    """The kernel's mode for transparent huge pages: always, madvise or never."""

    def __str__(self) -> str:
        levels = (
            f"{n}{'' if runs else ' (not on this CPU)'}" for n, runs in self.isa_levels.items()
        )
        caches = (f"{level} {byte_text(size, 1024)}" for level, size in self.caches.items())
        no_openmp = self.openmp_runtime == "none"
        quota = "no" if self.cores_quota is None else f"{self.cores_quota:g} by"
        rows = {
            "CPU": self.cpu or "unknown",
            "ISA levels": ", ".join(levels),
            "ISA chosen": self.isa or "none: FASTGRU_ISA names what cannot run here",
            "kernels": ", ".join(f"{p} {name}" for p, name in self.kernels.items()) or "none",
            "cores": f"{self.cores_affinity} by affinity, {quota} cgroup quota",
            "threads": "1 (built without OpenMP)"
            if no_openmp
            else f"{self.num_threads} by default",
            "caches": ", ".join(caches) or "unknown",
            "OpenMP": self.openmp_runtime,
            "wait policy": self.wait_policy,
            "huge pages": self.huge_pages or "unknown",
        }
        return "\n".join(f"{name:<12} {text}" for name, text in rows.items())


def cpu_info() -> CpuInfo:
    """ISA levels found and chosen, cores by affinity and cgroup, caches, OpenMP, huge pages.

    >>> import fastgru
    >>> info = fastgru.cpu_info()
    >>> info.isa_levels["portable"]
    True
    """
    try:
        isa, kernels = _core.default_isa(), _core.default_kernels()
    except ValueError:
        isa, kernels = None, {}
    return CpuInfo(
        cpu=_first_match(r"(?m)^(?:model name|Hardware)\s*:\s*(.+)$", "/proc/cpuinfo"),
        isa_levels=dict(_core.isa_levels()),
        isa=isa,
        kernels={precision: kernels[precision] for precision in PRECISIONS if kernels},
        cores_affinity=_affinity(),
        cores_quota=_startup.quota_cores,
        num_threads=_core.get_num_threads(),
        caches=_caches(),
        openmp_runtime=_core.openmp_runtime(),
        wait_policy=_startup.wait_policy,
        huge_pages=_first_match(r"\[(\w+)\]", "/sys/kernel/mm/transparent_hugepage/enabled"),
    )


def set_num_threads(n: int) -> None:
    """Sets the most threads that a call of any model may use, where the model sets none itself.

    A ceiling: calls use no more threads than the process has cores, and one in a build without
    OpenMP. Raises ValueError below 1, TypeError for what is not an integer.

    >>> import fastgru
    >>> before = fastgru.get_num_threads()
    >>> fastgru.set_num_threads(1)
    >>> fastgru.get_num_threads()
    1
    >>> fastgru.set_num_threads(before)
    """
    _core.set_num_threads(positive("n", n))


def release_memory() -> None:
    """Gives the scratch memory that calls have left behind back to the system.

    Every thread that has called a model keeps the scratch memory of its largest call, up to 64 MiB,
    so that the next call need not ask for memory. This gives it back: the calling thread's at once,
    and that of every other thread when its current or its next call ends, or the thread itself does
    (a thread that never calls again keeps its own until it ends). Any thread may call it at any
    time. Results do not change; the next call of each thread asks for memory anew.

    Models, the states of streams and pools, and arrays are no scratch memory: they are given back
    when they are deleted.

    >>> import fastgru
    >>> fastgru.release_memory()
    """
    _core.release_memory()


def get_num_threads() -> int:
    """The most threads that a call of any model uses, where the model sets none itself.

    That is `set_num_threads`, else FASTGRU_NUM_THREADS, else OMP_NUM_THREADS, else the cores by
    affinity and cgroup quota. In a build without OpenMP it is 1, whatever they say;
    `cpu_info().openmp_runtime` is "none" then.

    >>> import fastgru
    >>> fastgru.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _caches() -> dict[str, int]:
    sizes: dict[str, int] = {}
    for index in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        kind = _first_match(r"(\w+)", f"{index}/type")
        level = _first_match(r"(\d+)", f"{index}/level")
        size = _first_match(r"(\d+)K", f"{index}/size")
        if kind in ("Data", "Unified") and level and size:
            sizes[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size) * 1024
    return sizes


def _first_match(pattern: str, path: str) -> str | None:
    found = re.search(pattern, _startup.read_text(path))
    return found[1] if found else None
