"""The process and the machine: thread variables before anything loads, and what to record of both.

Must not import numpy or a peer: `set_thread_variables` has to run before them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent

# Recorded, as the user set them, because they change what is measured.
RECORDED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "MKL_ENABLE_INSTRUCTIONS",
    "FASTGRU_ISA",
    "FASTGRU_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "LD_PRELOAD",
)

DISTRIBUTIONS = (
    "fastgru",
    "numpy",
    "torch",
    "onnxruntime",
    "openvino",
    "onnx",
    "onednn-cpu-gomp",
)

# The CPU flags that decide which kernels can run, under Linux's names.
# fmt: off
NOTABLE_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)
# fmt: on


# Everything here that can be held to AVX2 on a CPU with more.
HELD_TO_AVX2 = {
    "FASTGRU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def hold_to_avx2() -> None:
    """Before anything is imported. ONNX Runtime has no such variable and is not held."""
    for name, value in HELD_TO_AVX2.items():
        os.environ.setdefault(name, value)


def set_thread_variables(threads: int) -> None:
    """Give every runtime that reads its count when loaded the largest count that will be measured.

    Peers also get the count of each case through their own interface. A value that the user has set
    stays.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy: only the reference uses it


def _first_line_value(path: str, keys: tuple[str, ...]) -> str | None:
    """The value of the first `key : value` line of a /proc file that has one of the keys."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return None


def _caches() -> dict[str, str]:
    """Cache sizes of core 0, such as {"L1d": "32K", "L2": "1024K"}."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        sizes[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return sizes


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_flags() -> set[str]:
    """Under Linux's names; empty elsewhere."""
    return set((_first_line_value("/proc/cpuinfo", ("flags", "Features")) or "").split())


def machine() -> dict[str, Any]:
    flags = cpu_flags()
    family = _first_line_value("/proc/cpuinfo", ("cpu family",))
    model = _first_line_value("/proc/cpuinfo", ("model",))
    return {
        "cpu": _first_line_value("/proc/cpuinfo", ("model name",)) or platform.processor(),
        "cpu_family_model": f"{family}/{model}" if family and model else None,
        "architecture": platform.machine(),
        "flags": [flag for flag in NOTABLE_FLAGS if flag in flags],
        "virtual": "hypervisor" in flags,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": load(),
    }


def load() -> float | None:
    """Runnable processes, averaged over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy_warning() -> str | None:
    """What to tell a user whose machine is doing something else, if it is."""
    now = load()
    if now is None or now < 0.5:
        return None
    return f"the machine is busy (load {now}, {usable_cores()} cores): expect noisy figures"


def git_commit(file: Path = CHECKOUT / "pyproject.toml") -> str | None:
    """The commit of the checkout with this file, "+changes" where tracked files differ from it.

    None where git does not know the file, for example a copy in an environment inside a checkout.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def engine_hash() -> str | None:
    """Start of the SHA-256 of the installed extension.

    The commit says which source is checked out; this says whether two runs used the same binary.
    """
    try:
        spec = importlib.util.find_spec("fastgru._core")
    except ImportError:
        return None
    if spec is None or spec.origin is None:
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of these distributions; absent ones are left out."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """Everything that a figure must be quoted with. Call it before `set_thread_variables`."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "engine": engine_hash(),
        "machine": machine(),
        "versions": versions(DISTRIBUTIONS),
        "environment": {n: os.environ[n] for n in RECORDED_VARIABLES if n in os.environ},
    }
