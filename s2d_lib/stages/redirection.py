"""Loss functions inside a wrapper's forward pass, with their arguments as they are."""

from collections.abc import Callable
from typing import Any

from torch import nn
from trl.models.utils import _ForwardRedirection


class Redirection(_ForwardRedirection):
    """TRL's redirection of a method through a wrapper's forward (DDP joins gradients there, FSDP2 and ZeRO-3 gather weights),
    past which the arguments go: FSDP2 casts all that enters a forward pass, also advantages, entropies and normalisers, to
    the precision of the computation, and hands on a copy of every dictionary."""

    def __call__(
        self, wrapper_module: nn.Module, original_module: nn.Module, method: Callable, *args: Any, **kwargs: Any
    ) -> Any:
        """What `method(*args, **kwargs)` returns."""
        # With one argument that no wrapper touches: DDP on GPUs takes the first of those that it has moved.
        return super().__call__(wrapper_module, original_module, lambda _: method(*args, **kwargs), original_module)
