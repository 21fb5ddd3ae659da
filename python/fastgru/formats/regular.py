"""Opens files that end: regular ones. A pipe would wait, and a device might never end."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from fastgru.errors import FormatError


def open_regular(name: str) -> BinaryIO:
    """The file, for reading; FormatError for what is not regular, OSError as of open()."""
    if not os.path.isdir(name) and not stat.S_ISREG(os.stat(name).st_mode):
        raise FormatError("not a regular file")
    return open(name, "rb")
