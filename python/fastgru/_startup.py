"""Loads the extension so that fastgru is a good neighbour: the environment stays as it was found.

libgomp reads its wait policy once, when it is first loaded, and by default spins 8 ms of CPU time
after every parallel region. So a short spin is in the environment while the extension loads.
Refuses to override a user's choice, and can do nothing about a libgomp that another package has
loaded before.
"""

from __future__ import annotations

import os

# How long a thread without work spins, at either end of a region: about 0.1 ms. Then back-to-back
# calls stay at 0.8 us a region, and after 20 ms of idleness one starts in 35 to 90 us instead of 2
# to 8 ms. With 7 us (500 spins on an Emerald Rapids) threads that were not ready within 7 us of
# each other fell asleep in most calls: steps of 128 rows took 168 us instead of 118.
_SPIN_NANOSECONDS = 100e3
_USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def _load_extension() -> str:
    """Imports `_core`; returns the wait policy in force, for people."""
    chosen = [f"{name}={os.environ[name]}" for name in _USERS_CHOICE if name in os.environ]
    loaded_before = _libgomp_is_loaded()
    ours = not chosen and not loaded_before
    if ours:
        from fastgru import _pause  # noqa: PLC0415

        spins = spin_count(_pause.nanoseconds())
        os.environ["GOMP_SPINCOUNT"] = str(spins)
    try:
        from fastgru import _core  # noqa: PLC0415
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]
    if _core.openmp_runtime() != "libgomp":
        return "the runtime's default"
    if chosen:
        return f"{', '.join(chosen)}, from the environment"
    if loaded_before:
        return "libgomp's default (it was loaded before fastgru): waiting threads spin for long"
    return f"GOMP_SPINCOUNT={spins} (about 0.1 ms here), set by fastgru while loading"


def spin_count(pause: float) -> int:
    """How many pauses of so many nanoseconds are worth spinning.

    >>> spin_count(200.0)
    500
    """
    # Nobody's pause is so short or so long: what was measured then is something else.
    return round(_SPIN_NANOSECONDS / min(max(pause, 2.0), 1000.0))


def _libgomp_is_loaded() -> bool:
    # Copies that wheels bundle have a hash in their name (torch: libgomp-24e2ab19.so.1.0.0) and are
    # not the one that the extension resolves to.
    return "/libgomp.so" in read_text("/proc/self/maps")


def read_text(path: str) -> str:
    """A file of /proc or /sys; empty if there is none."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def cgroup_cores(
    proc_cgroup: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> float | None:
    """Cores that the CPU quota of this process' cgroup, or of any above it, amounts to.

    Reads cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`); None without a quota. Where a container
    sees its own group as the root, the path in /proc is not below `root` and the root is read.
    """
    quotas: list[float] = []
    for line in read_text(proc_cgroup).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            hierarchies = [root, f"{root}/unified"]
        elif "cpu" in controllers.split(","):
            hierarchies = [f"{root}/{controllers}", f"{root}/cpu"]
        else:
            continue
        steps = [part for part in path.split("/") if part not in ("", "..")]
        for hierarchy in hierarchies:
            for depth in range(len(steps) + 1):
                quotas.extend(_quota("/".join([hierarchy, *steps[:depth]])))
    return min(quotas, default=None)


def _quota(group: str) -> list[float]:
    v1 = f"{read_text(f'{group}/cpu.cfs_quota_us')} {read_text(f'{group}/cpu.cfs_period_us')}"
    try:
        quota, period = (read_text(f"{group}/cpu.max") or v1).split()
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such group
        return []
    return [cores] if cores > 0 else []  # v1 writes -1 for no quota


def whole_cores(quota: float) -> int:
    """How many threads fit a quota."""
    # Rounded down: a thread more gets the whole process throttled for the rest of every period
    # (100 ms), and the others wait for it at a barrier.
    return max(1, int(quota))


wait_policy = _load_extension()
quota_cores = cgroup_cores()
if quota_cores is not None:
    from fastgru import _core

    _core.set_core_limit(whole_cores(quota_cores))
