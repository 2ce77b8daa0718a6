"""Packages that only some of gdflows needs, and what is said where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from gdflows.errors import DataError


def need(module: str, package: str, *, extra: str, what: str) -> ModuleType:
    """Import a module; a package that is missing is told apart from one that is broken.

    Parameters
    ----------
    module : str
        As in ``"sklearn.datasets"``.
    package : str
        As pip knows it.
    extra : str
        Of gdflows, the one that brings it.
    what : str
        What needs it, for the message.

    Raises
    ------
    DataError
        If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        ours = (module, module.partition(".")[0])
        if isinstance(error, ModuleNotFoundError) and error.name in ours:
            raise DataError(
                f"{what} needs {package}, which is not installed: pip install 'gdflows[{extra}]'."
            ) from error
        # Something that it needs in turn is missing or too new, the disk is full, …
        raise DataError(
            f"{what} needs {package}, which is installed but cannot be imported "
            f"({type(error).__name__}: {error}). Mend that, or install {package} anew."
        ) from error
