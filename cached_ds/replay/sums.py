"""Sums of gradients: every autograd node of this package adds up, pass by pass or tile by tile, and returns a sum once.

Also here: the questions that such a node asks autograd, and the uses that it refuses because the sums would be wrong.
No other file uses the two private names of torch that answer the questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def zero_sum(tensor: Tensor) -> Tensor:
    """Zeros to which gradients of `tensor` are added: of its shape, in `sum_dtype`."""
    return torch.zeros_like(tensor, dtype=sum_dtype(tensor))


def zero_sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A `zero_sum` for each tensor."""
    return [zero_sum(tensor) for tensor in tensors]


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """float32 for narrower tensors: a sum of hundreds of bf16 gradients would lose the small ones."""
    return torch.promote_types(tensor.dtype, torch.float32)


def add_(sums: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to their sums; a missing one is zero, a sparse one (of an embedding) touches its rows only."""
    used = [(total, gradient) for total, gradient in zip(sums, gradients, strict=True) if gradient is not None]
    dense = [pair for pair in used if not pair[1].is_sparse]
    if dense:
        torch._foreach_add_([total for total, _ in dense], [gradient for _, gradient in dense])
    for total, gradient in used:
        if gradient.is_sparse:
            total.index_add_(0, gradient._indices()[0], gradient._values().to(total.dtype))


def refuse_tensor_hooks(parameters: Sequence[Tensor]) -> None:
    """Refuse parameters whose tensor hooks would run once per pass.

    Raises:
        RuntimeError: a parameter has one; the message names the hook to use instead.
    """
    if any(parameter._backward_hooks for parameter in parameters):
        raise RuntimeError(
            "cached_ds: a parameter has a tensor hook (Tensor.register_hook), which would run once per "
            "window; use register_post_accumulate_grad_hook, which runs once per backward"
        )


def refuse_create_graph(through: str) -> None:
    """Refuse a backward that is to be differentiated again; call it in the node's backward.

    Args:
        through: what the node computes, for the message.

    Raises:
        RuntimeError: `backward(create_graph=True)`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"cached_ds: create_graph=True (a second derivative) is not possible through {through}")


def device_output(anchor: Tensor) -> Tensor:
    """A second output of a node whose first may live on the host: with it, the node runs in its device's thread.

    Autograd runs a node in the thread of the first device among its outputs, and hands the gradients of its inputs on
    in their order. The hooks that reduce parameters, and the engine's own behind the anchor, run in the device's
    thread. So that an engine never looks for gradients before they are there, the node runs in that thread too, and
    the parameters come before the anchor among its inputs.
    """
    return torch.zeros((), device=anchor.device)


def retains_graph() -> bool:
    """Whether the backward under way was called with `retain_graph=True`, so that it may be repeated."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def will_run(tensor: Tensor) -> bool:
    """Whether the backward under way will reach the node that made `tensor`; False for a leaf."""
    return tensor.grad_fn is not None and torch._C._will_engine_execute_node(tensor.grad_fn)
