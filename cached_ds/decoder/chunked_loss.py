"""Chunked loss: the cross-entropy of a target of any length, without keeping its logits.

Problem. Hugging Face computes logits [B, T, V] and the cross-entropy over them; autograd keeps several tensors of that
size (BART-large, one target of 4,000 tokens: 0.8 GB each in float32).

Flow, in training with `labels`:
  1. a forward pre-hook on the model takes `labels` out of the arguments, makes the decoder's inputs from them as the
     model would, and leaves them on the head as a `Request`;
  2. the head gets hidden states [B, T, D] and computes the loss chunk by chunk: logits, their cross-entropy, its sum.
     To the model it returns zeros in place of the logits;
  3. a forward hook on the model puts the loss into the output; `output.logits` is None, as is the second of a tuple;
  4. backward computes each chunk's logits again, their gradient, and from it those of hidden states and parameters.
All other calls (eval, no_grad, no labels, labels by position) run Hugging Face's own forward, logits included.

Memory: hidden states and labels are kept; the logits of one chunk (device_sizes.py) exist at one time, and in backward
the gradient of the weight, in float32 where the weight is narrower. Time: the logits once more.

Numbers: the loss is computed in float32 where the model is narrower (Hugging Face's has the model's precision).
Otherwise it is Hugging Face's: the mean over labels that are not -100 (nan if there are none), or the sum over
`num_items_in_batch`; `label_smoothing` as transformers' LabelSmoother has it.

Shapes: B documents, T target length, N = B * T, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from cached_ds.models.class_swap import remove_hook
from cached_ds.replay.autocast import Autocast
from cached_ds.replay.sums import refuse_create_graph, sum_dtype, zero_sum
from cached_ds.settings import device_sizes

IGNORED = -100


@dataclass
class Request:
    """What one forward of the model asks of its head, and the answer.

    Attributes:
        labels: [B, T].
        smoothing: weight of the uniform distribution.
        num_items: divisor of the sum; None: the number of labels that are not ignored.
        bias: [1, V], added to the logits.
        loss: the scalar, once the head has run.
    """

    labels: Tensor
    smoothing: float
    num_items: Tensor | int | None
    bias: Tensor | None
    loss: Tensor | None = None


class ChunkedHead(nn.Linear):
    """The class that a model's `lm_head` gets from `attach_loss`; without a request, a linear layer as before.

    To engines it stays a linear layer: one tensor of hidden states in, one tensor out, the weight saved as `nn.Linear`
    saves it and gathered once in forward and once in backward, whatever T is; its gradient is returned once. It has no
    parts and needs no leaf mark for ZeRO-3. With one it would own a tied weight in place of the encoder, and the
    gradient of that weight is not complete when the backward of the head ends.
    """

    request: Request | None = None

    @torch.compiler.disable  # see docs/design.md, "Compiled models"
    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [B, T, V] of hidden states [B, T, D]; with a request, answer it and return zeros [B, 1, 1]."""
        request = self.request
        if request is None:
            return super().__call__(hidden)
        labels = request.labels.to(hidden.device)
        request.loss = super().__call__(hidden, labels, request.bias, request.num_items, request.smoothing)
        return hidden.new_zeros(len(hidden), 1, 1)  # the model may add its bias [1, V]

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        logits_bias: Tensor | None = None,
        num_items: Tensor | int | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Logits [B, T, V]; with `labels` [B, T] the loss, a scalar.

        Raises:
            ValueError: labels of another shape than the decoder's inputs.
        """
        if labels is None:
            return super().forward(hidden)
        if labels.shape != hidden.shape[:-1]:
            raise ValueError(f"labels {tuple(labels.shape)} must have the decoder's shape, {tuple(hidden.shape[:-1])}")
        biases = [bias.flatten() for bias in (self.bias, logits_bias) if bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        total = _Total.apply(hidden.flatten(0, -2), labels.flatten(), self.weight, bias, smoothing)
        divisor = labels.ne(IGNORED).sum() if num_items is None else num_items
        return total / (divisor.to(total.device) if isinstance(divisor, Tensor) else divisor)


class _Total(torch.autograd.Function):
    """The sum of cross-entropies, a scalar, for hidden states [N, D], labels [N], weight [V, D], bias [V]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, smoothing: float
    ) -> Tensor:
        ctx.autocast, ctx.smoothing = Autocast.current(hidden.device), smoothing
        ctx.save_for_backward(hidden, labels, weight, bias)
        hidden, matrix = ctx.autocast.cast(hidden), ctx.autocast.cast(weight)
        total = hidden.new_zeros((), dtype=sum_dtype(hidden))
        with ctx.autocast.off():
            for span in _spans(labels, weight):
                total += _cross_entropy(_logits(hidden[span], matrix, bias), labels[span], smoothing)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_create_graph("the loss")
        saved, labels, weight, bias = ctx.saved_tensors
        sums = _Sums.wanted(ctx.needs_input_grad, saved, weight, bias)
        hidden, matrix = ctx.autocast.cast(saved), ctx.autocast.cast(weight)
        with ctx.autocast.off():
            for span in _spans(labels, weight):
                logits = _logits(hidden[span], matrix, bias).requires_grad_()
                with torch.enable_grad():
                    total = _cross_entropy(logits, labels[span], ctx.smoothing)
                (slope,) = torch.autograd.grad(total, logits, gradients[0])
                sums.add(span, slope, hidden[span], matrix)
        return sums.hidden, None, sums.weight, sums.bias, None


@dataclass
class _Sums:
    """Gradients that are summed chunk by chunk; None where none is wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def wanted(cls, needs: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> _Sums:
        """Zeros for the inputs of `_Total` that need a gradient."""
        return cls(
            torch.zeros_like(hidden) if needs[0] else None,
            zero_sum(weight) if needs[2] else None,
            zero_sum(bias) if bias is not None and needs[3] else None,
        )

    def add(self, span: slice, slope: Tensor, hidden: Tensor, matrix: Tensor) -> None:
        """Add a chunk's share: `slope` is the gradient [n, V] of the logits of its hidden states [n, D]."""
        if self.bias is not None:
            self.bias += slope.sum(0)
        slope = slope.to(matrix.dtype)
        if self.hidden is not None:
            self.hidden[span] = slope @ matrix
        if self.weight is not None and self.weight.dtype == matrix.dtype:
            self.weight.addmm_(slope.T, hidden)
        elif self.weight is not None:
            self.weight += slope.T @ hidden


def _spans(labels: Tensor, weight: Tensor) -> list[slice]:
    """The chunks of target positions, of at most `logits_per_chunk` logits (but at least one position)."""
    rows = max(1, device_sizes.logits_per_chunk(weight.device) // len(weight))
    return [slice(begin, begin + rows) for begin in range(0, len(labels), rows)]


def _logits(hidden: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Logits [n, V] of hidden states [n, D], in float32 or wider."""
    logits = hidden @ matrix.T
    logits = logits.to(sum_dtype(logits))
    return logits if bias is None else logits.add_(bias)


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")


def attach_loss(model: PreTrainedModel) -> None:
    """Make a Hugging Face model compute its training loss in chunks, in place.

    A head that is not a plain `nn.Linear` (one with an adapter, say) is left as it is, and the loss is Hugging Face's.
    """
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        head.__class__ = ChunkedHead
    model.register_forward_pre_hook(_take_labels, with_kwargs=True)
    model.register_forward_hook(_give_loss, always_call=True)


def detach_loss(model: PreTrainedModel) -> None:
    """Undo `attach_loss`."""
    heads: list[Any] = [module for module in model.modules() if isinstance(module, ChunkedHead)]
    for head in heads:
        head.__class__ = nn.Linear
        vars(head).pop("request", None)
    remove_hook(model, _take_labels)
    remove_hook(model, _give_loss)


def has_chunked_loss(model: PreTrainedModel) -> bool:
    """Whether a Hugging Face model, trained now with labels, would compute its loss in chunks."""
    return isinstance(model.get_output_embeddings(), ChunkedHead)


@torch.compiler.disable
def _take_labels(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: where the loss is to be chunked, give `labels` [B, T] to the head instead, as a request."""
    is_training = model.training and torch.is_grad_enabled() and kwargs.get("labels") is not None
    if is_training and has_chunked_loss(model):
        labels = kwargs.pop("labels")
        if kwargs.get("decoder_input_ids") is None and kwargs.get("decoder_inputs_embeds") is None:
            kwargs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
        kwargs["use_cache"] = False
        model.get_output_embeddings().request = Request(
            labels=labels,
            smoothing=kwargs.pop("label_smoothing", 0.0),
            num_items=kwargs.pop("num_items_in_batch", None),
            bias=getattr(model, "final_logits_bias", None),
        )
    elif kwargs.pop("label_smoothing", 0.0):
        raise ValueError(
            "label_smoothing: only a model in training mode, with labels and a linear head, can smooth them"
        )
    return args, kwargs


@torch.compiler.disable
def _give_loss(model: Any, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
    """Forward hook, called after a failed forward too: remove the request, and put its loss into the output."""
    head = model.get_output_embeddings()
    request = head.request if isinstance(head, ChunkedHead) else None
    if request is None:
        return None
    head.request = None
    if output is None:
        return None
    if isinstance(output, tuple):
        return request.loss, None, *output[1:]
    return type(output)(**{**output, "loss": request.loss, "logits": None})
