"""Writes a file so that readers, and a crash, find the old content or the new, never a part.

Refuses nothing itself; what the operating system refuses arrives as its OSError.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file beside `path`, empty, that goes to the disk and takes its place at the end.

    Its permissions are the umask's, or those of the file that it replaces; a symbolic link stays
    and its target is replaced. Where the block raises, or the system does, `path` is as it was and
    nothing is left beside it. Raises OSError for what is no regular file: a directory, a pipe, a
    device.
    """
    name = os.fsdecode(os.fspath(path))
    target = os.path.realpath(name)
    if name.endswith(os.sep) or os.path.isdir(target):
        raise IsADirectoryError(f"{name!r} is a directory")
    mode = _existing_mode(name, target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastgru-{os.urandom(8).hex()}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        error.filename = os.fsdecode(path)  # the name that the user knows
        raise
    try:
        with file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
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
