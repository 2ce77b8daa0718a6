"""One call for the flows of all optimisers: ``CentralFlow(E, lr, optimizer="adam")``."""

from __future__ import annotations

from typing import ClassVar

from gdflows.errors import InputError


class ByOptimizer:
    """A flow of gradient descent, by whose call those of other optimisers are reached too.

    A family's first class has a dictionary ``kinds`` of its own; a subclass that models other
    optimisers names them: ``class Other(First, optimizers=("adam",))``.
    """

    kinds: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, optimizers: tuple[str, ...] = (), **rest):
        super().__init_subclass__(**rest)
        for name in optimizers:
            cls.kinds[name] = cls

    def __new__(cls, *arguments, optimizer: str = "gd", **options):
        if optimizer != "gd" and optimizer not in cls.kinds:
            raise InputError(
                f"optimizer must be one of gd, {', '.join(cls.kinds)}, got {optimizer!r}."
            )
        kind = cls.kinds.get(optimizer, cls)
        return super().__new__(kind if issubclass(kind, cls) else cls)
