"""Replay by tile: attention to whole documents in memory that does not grow with the decoder's layers.

Problem. Plain cross-attention keeps keys and values of the document for every decoder layer (for BART-large in bf16 24
times the size of H), and Hugging Face turns a padded mask into one of T x L.

Flow, in one autograd node per decoder layer (Milakov and Gimelshein 2018; Dao et al. 2022):
  1. forward: for each tile of H, project keys and values, attend, merge by log-sum-exp; keep q, the output and the
     log-sum-exp, all of the target's size.
  2. backward: for each tile, project again, now with a graph; the tile's gradients of q, keys and values follow from
     the kept log-sum-exp, and go through the projections by autograd, whatever these are (Linear, LoRA). Gradients of
     the parameters are summed and returned once, as in by_window.py; those of H go to its buffer (document_states.py).

Where ranks share a document (document_parallel/), each goes through its own tiles. What they found is merged at the end
of forward; gradients of q are added up at the end of backward, and those of keys and values multiplied by the number of
ranks (merging.py says why).

Random numbers (rng.py): S is one draw of torch's CPU generator, taken back if nothing is random. The attention weights
of tile number i of a call are dropped with the generators seeded with S + i; its keys and values, where LoRA drops,
with S + number of tiles + i. So dropout is the same in backward.

Shapes: B documents, L padded source length, S tile length, T target length, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cached_ds.decoder.cut_tiles import PartKernel
from cached_ds.decoder.document_states import DocumentStates, Tile, with_rows
from cached_ds.decoder.tile_kernels import Kernel, merge_
from cached_ds.document_parallel.merging import scaled
from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor
from cached_ds.replay.rng import ReplayRng
from cached_ds.replay.sums import (
    add_,
    refuse_create_graph,
    refuse_tensor_hooks,
    retains_graph,
    sum_dtype,
    zero_sum,
    zero_sums,
)


@dataclass
class SavedTile:
    """What one tile leaves for backward.

    Attributes:
        dropout_state: what the kernel needs to drop the same weights again.
        projections: states [S, D], keys and values [1, H, S, D / H] with their graph, if they are kept.
    """

    dropout_state: Any
    projections: tuple[Tensor, Tensor, Tensor] | None


@dataclass(frozen=True)
class AttentionCall:
    """One call of one cross-attention.

    Attributes:
        documents: what the queries attend to.
        tiles: of all of them, or this rank's parts.
        num_tiles: of all of them, on all ranks.
        project: turns states [S, D] into keys and values [1, H, S, D / H].
        parameters: returns the projections' trainable tensors; called in forward and again in backward.
        rng: random streams of this call.
        kernel: computes a tile.
        projections_draw: whether `project` may draw random numbers (adapters drop).
        saved: one for each tile, filled by forward.
    """

    documents: DocumentStates
    tiles: list[Tile]
    num_tiles: int
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    parameters: Callable[[], list[Tensor]]
    rng: ReplayRng
    kernel: Kernel
    projections_draw: bool = True
    saved: list[SavedTile] = field(default_factory=list)

    def stream(self, number: int, *, draws: bool) -> AbstractContextManager[None]:
        """The random stream `number`, where something draws from it: entering one costs more than a small kernel."""
        return self.rng.fork(number) if draws else nullcontext()

    def kernel_of(self, tile: Tile) -> Kernel:
        """What computes a tile; a part of one has the random numbers of the whole."""
        return PartKernel(self.kernel, tile.part) if tile.part and self.kernel.draws[0] else self.kernel

    def settle(self, q: Tensor) -> None:
        """Take the draw of S back if nothing is random; a rank without tiles has to find out what it is for others."""
        if not self.tiles:
            with torch.no_grad(), self.stream(0, draws=self.projections_draw):
                self.project(q.new_zeros(1, self.documents.shape[-1]))
            self.rng.used = self.rng.used or self.kernel.draws[0]
        self.rng.settle()


def attend(call: AttentionCall, q: Tensor) -> Tensor:
    """Attention of queries [B, H, T, D / H] to the documents; the result has the same shape.

    Raises:
        RuntimeError: what `replay` refuses.
    """
    parameters = call.parameters()
    if torch.is_grad_enabled():
        refuse_tensor_hooks(parameters)
        output = _Attend.apply(call, *parameters, q, call.documents.anchor)
    else:
        output, _ = _run_forward(call, q)
    call.settle(q)
    return output


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: AttentionCall, *inputs: Tensor) -> Tensor:
        """`inputs` are the parameters, then queries and anchor."""
        *parameters, q, anchor = inputs
        ctx.call, ctx.autocast = call, Autocast.current(q.device)
        output, lse = _run_forward(call, q)
        ctx.save_for_backward(*parameters, q, output, lse, anchor)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_create_graph("attention")
        *_, q, output, lse, anchor = ctx.saved_tensors
        call = ctx.call
        if not retains_graph():
            ctx.call = None  # H need not live as long as the loss does
        with ctx.autocast.again():
            of_q, sums = _run_backward(call, gradients[0], q, output, lse)
        return None, *sums, of_q, torch.zeros_like(anchor)


def _run_forward(call: AttentionCall, q: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D / H] and log-sum-exp [B, H, T]."""
    output = torch.zeros_like(q, dtype=sum_dtype(q), memory_format=torch.contiguous_format)
    lse = torch.full_like(output[..., 0], -torch.inf)
    call.saved.clear()
    keep = call.documents.keep_projections and call.documents.recorded
    learns = keep and call.documents.anchor.grad_fn is not None
    for tile, states in with_rows(call.tiles, call.documents.states, q.device):
        kernel = call.kernel_of(tile)
        with torch.set_grad_enabled(keep):
            states, k, v = _project(call, tile, states, wants_states=learns)
        with torch.no_grad(), call.stream(tile.number, draws=kernel.draws[0]):
            *found, dropout_state = kernel.forward(tile.of(q), k.detach(), v.detach())
        call.saved.append(SavedTile(dropout_state, (states, k, v) if keep else None))
        merge_(tile.of(output), tile.of(lse), *found)
    output, lse = call.documents.merged(output, lse)
    return output.to(q.dtype), lse


def _run_backward(
    call: AttentionCall, gradient: Tensor, q: Tensor, output: Tensor, lse: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of q and of the parameters; that of H goes to its buffer."""
    parameters, conveyor, wants_states = call.parameters(), Conveyor(q.device), call.documents.wants_gradient()
    of_q, sums, retain = zero_sum(q), zero_sums(parameters), retains_graph()
    group = None if call.documents.share is None else call.documents.share.group
    summing = None  # of_q over the group, while the last tile's projections are differentiated
    of_states = call.documents.add_gradient(conveyor, call.tiles) if wants_states else None
    for number, (tile, loaded) in enumerate(with_rows(call.tiles, call.documents.states, q.device)):
        saved, kernel = call.saved[number], call.kernel_of(tile)
        with torch.enable_grad():
            states, k, v = saved.projections or _project(call, tile, loaded, wants_states=wants_states)
        of_output, queries, out, total = (tile.of(tensor) for tensor in (gradient, q, output, lse))
        with call.stream(tile.number, draws=kernel.draws[1]):
            tile_of_q, *of_projections = kernel.backward(
                of_output, queries, k.detach(), v.detach(), out, total, saved.dropout_state
            )
        tile.of(of_q).add_(tile_of_q)
        if group is not None and number == len(call.tiles) - 1:
            summing = group.start_sum_(of_q)
        wanted = [*parameters, states] if wants_states else parameters
        if not wanted:
            continue
        again = retain and saved.projections is not None
        of_projections = of_projections if group is None else scaled(group, of_projections)
        found = torch.autograd.grad((k, v), wanted, of_projections, retain_graph=again, allow_unused=True)
        add_(sums, found[: len(parameters)])
        if of_states is not None:
            of_states.add(found[-1])
    conveyor.finish()
    if group is not None:
        (summing or group.start_sum_(of_q)).wait()  # a rank without tiles has not begun
    return of_q.to(q.dtype), sums


def _project(call: AttentionCall, tile: Tile, states: Tensor, *, wants_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's states as a leaf, and its keys and values; an adapter's dropout has a stream of its own."""
    # Cast first: autocast would take a leaf of its own for a weight, and remember the cast of every tile.
    states = Autocast.current(states.device).cast(states).detach().requires_grad_(wants_states)
    with call.stream(call.num_tiles + tile.number, draws=call.projections_draw):
        if tile.part is None or not call.projections_draw:
            return states, *call.project(states)
        k, v = call.project(tile.part.widened(states))
        return states, tile.part.own(k), tile.part.own(v)
