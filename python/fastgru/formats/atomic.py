"""Writes a file so that readers, and a crash, find the old content or the new, never a part.

Refuses nothing itself; what the operating system refuses arrives as its OSError.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` beside `path`, to the disk, and renames it into place.

    A new file's permissions are the umask's, an existing one keeps its own; a symbolic link stays
    and its target is replaced. On failure `path` is as it was and nothing is left beside it. Raises
    OSError for what is no regular file: a directory, a pipe, a device.
    """
    name = os.fsdecode(os.fspath(path))
    target = os.path.realpath(name)
    if name.endswith(os.sep) or os.path.isdir(target):
        raise IsADirectoryError(f"{name!r} is a directory")
    mode = _existing_mode(name, target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastgru-{secrets.token_hex(8)}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        error.filename = os.fsdecode(path)  # the name that the user knows
        raise
    try:
        with file:
            if mode is not None:
                os.chmod(temporary, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _existing_mode(name: str, target: str) -> int | None:
    try:
        status = os.lstat(target)  # a link here is part of a loop
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{name!r} is not a regular file")
    return stat.S_IMODE(status.st_mode)


def _sync_folder(folder: str) -> None:
    """Makes the rename itself durable, where the system can."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
