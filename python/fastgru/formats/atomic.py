"""Writes a file so that readers, and a crash, find the old content or the new, never a part.

Refuses nothing itself; what the operating system refuses arrives as its OSError.
"""

from __future__ import annotations

import contextlib
import os
import secrets


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` beside `path`, to the disk, and renames it into place.

    The file's permissions are a new file's (umask); a symbolic link stays and its target is
    replaced. On failure `path` is as it was and nothing is left beside it.
    """
    target = os.path.realpath(os.fsdecode(os.fspath(path)))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fsdecode(path)} is a directory")
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastgru-{secrets.token_hex(8)}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        error.filename = os.fsdecode(path)  # the name that the user knows
        raise
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Makes the rename itself durable, where the system can."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
