"""Class swap: give a module instance a subclass of its own class, and take it back; remove hooks.

Modules, parameters, state-dict keys and isinstance checks stay as they were. Pickle and deepcopy refer to the base
class; the swapped class is recreated where the module is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


class Swapped(nn.Module):
    """Base of the mixins that are put over a Hugging Face class."""

    mixin: type[Swapped]
    keeps_name = False  # whether the swapped class has the name of the base class

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Refer to the mixin and the base class, from which the swapped class can be recreated."""
        return _blank, (type(self).mixin, base_of(self)), self.__getstate__()


@functools.cache
def swapped_class(mixin: Any, base: Any) -> Any:
    """The subclass of `base` with the mixin over it; one per pair, since engines compare classes."""
    contents = {"__doc__": f"{base.__name__}, {mixin.__name__.lower()}.", "mixin": mixin}
    name = base.__name__ if mixin.keeps_name else f"{mixin.__name__}{base.__name__}"
    return type(name, (mixin, base), contents)


def base_of(module: nn.Module) -> Any:
    """The class that a swapped module had before, whatever an engine has put over its class since."""
    order = type(module).__mro__
    return order[order.index(Swapped) + 1]


def remove_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Remove a forward hook or forward pre-hook by its function: a copied module has the hook, but no handle for it."""
    before = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    after = (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
    for hooks in (before, after):
        for number in [number for number, registered in hooks[0].items() if registered is hook]:
            for entries in hooks:
                entries.pop(number, None)


def _blank(mixin: Any, base: Any) -> Any:
    cls = swapped_class(mixin, base)
    return cls.__new__(cls)
