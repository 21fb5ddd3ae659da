"""Imports that a call makes when it is the first to need them, since `import fastgru` is quick.

Where memory ends while Python imports, it says nearly anything: ImportError for a shared object
that cannot be mapped, SyntaxError or SystemError for a module that it fails to compile. A service
that catches MemoryError must get a MemoryError.
Refuses to hide an import that fails for any other reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_NO_MEMORY = ("failed to map segment", "llocate memory")  # the C library's words


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around import statements; MemoryError where memory ends.

    >>> with importing():
    ...     import json
    """
    try:
        # zipfile swallows their ImportErrors, and could then never read anything compressed.
        import binascii  # noqa: F401, PLC0415
        import zlib  # noqa: F401, PLC0415

        yield
    except ImportError as error:
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise MemoryError(f"no memory to import {error.name}") from error
    except (SyntaxError, SystemError) as error:
        raise MemoryError(f"no memory to import a module: {error}") from error
