"""Windowed: the mixin that makes an encoder read whole documents, window by window, through replay.

`attach` gives an encoder *instance* a subclass of its own class, `WindowedBartEncoder(Windowed, BartEncoder)`. Modules,
parameters, state-dict keys and isinstance checks stay as they were.

Call flow:
    encoder(input_ids=, attention_mask=, ...)        as Hugging Face models and `generate` call it
      -> __call__   keyword arguments in, a ModelOutput out
      -> nn.Module.__call__(ids, mask, prefix, segments, global mask, anchor)   tensors in, one tensor out
      -> forward    hooks of FSDP2 and ZeRO-3 have run: parameters are whole; cut windows, replay them
      -> _encode    one pass of windows through the encoder's own forward

The step in the middle, and its anchor, are there for the engines (docs/design.md, "The engines' contract").

Shapes: B documents, L padded source length, N windows of a pass, w window length, K kept states, D width.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from cached_ds.document_parallel.lockstep import fall_in_step
from cached_ds.document_parallel.mesh import document_group
from cached_ds.document_parallel.shares import Share, deal
from cached_ds.encoder.guards import check_gathered, refuse_sequence_parallelism
from cached_ds.encoder.state import LENGTHS, AttachedState, given_lengths
from cached_ds.models.class_swap import Swapped, base_of
from cached_ds.models.families import Family
from cached_ds.planning.compiled import run_compiled
from cached_ds.planning.tuner import Tuner
from cached_ds.replay.by_window import ReplayPlan, replay
from cached_ds.replay.offload import empty
from cached_ds.replay.rng import ReplayRng
from cached_ds.windows.cut import Window
from cached_ds.windows.passes import Batch, Cutter, EncoderPass
from cached_ds.windows.sample import draw

# Inputs of Hugging Face's encoders that cannot be cut into windows of tokens.
UNREADABLE = ("inputs_embeds", "encoder_hidden_states", "past_key_values")


class Windowed(Swapped):
    """Mixin over a Hugging Face encoder class: whole documents in, their states out."""

    _z3_leaf = True  # DeepSpeed ZeRO-3: gather and reduce this module as one, whatever runs inside it
    _cached_ds: AttachedState
    config: PretrainedConfig

    @torch.compiler.disable  # see docs/design.md, "Compiled models"
    def __call__(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, *others: Any, **kwargs: Any
    ) -> ModelOutput | tuple[Tensor]:
        """States of whole documents, [B, L, D] for `input_ids` [B, L]; padded positions are zero.

        Where ranks share a document, [1, R, D]: the R states of this rank's share.

        Arguments are those of Hugging Face's encoder. Attentions and hidden states of its layers are not kept, and come
        back as None when they are asked for; what Hugging Face ignores is ignored.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L].
            *others: further arguments of the encoder, by position.
            **kwargs: further arguments by name; `prefix_lengths` [B]: how many tokens, after a document's first special
                tokens, are repeated in every window; `segment_lengths` [B, S], padded with 0: how many tokens of the
                content behind them each segment has, which begins a window of its own.

        Raises:
            ValueError: the inputs cannot be cut into windows (inputs_embeds, an empty row, a missing frame, ...); the
                ranks of a document group were given different documents.
            RuntimeError: an engine has sharded the encoder's parameters in a way that would lose gradients.
        """
        state = self._cached_ds
        kwargs |= self._named(others)
        ids = _check_inputs(state.family, input_ids, attention_mask, kwargs)
        lengths = {**state.call.take_lengths(), **given_lengths(kwargs)}
        anchor = torch.zeros((), device=ids.device, requires_grad=torch.is_grad_enabled() and state.call.learns)
        given = (ids, attention_mask, *map(lengths.get, LENGTHS), kwargs.get("global_attention_mask"))
        states = super().__call__(*given, anchor)
        if state.call.share is not None:
            state.call.share.mark(states)
        return (states,) if kwargs.get("return_dict") is False else state.family.output(last_hidden_state=states)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's, under the name of the class that the encoder had before `attach`."""
        own = type(self)
        self.__class__ = base_of(self)
        try:
            return self.save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = own

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        prefix_lengths: Tensor | None,
        segment_lengths: Tensor | None,
        global_attention_mask: Tensor | None,
        anchor: Tensor,
    ) -> Tensor:
        """States [B, L, D], or [1, R, D] of a share, replayed; the batch comes to the host once, to be cut."""
        refuse_sequence_parallelism()
        self._check_parameters()
        state, device = self._cached_ds, input_ids.device
        batch = Batch.on_host(input_ids, attention_mask, prefix_lengths, segment_lengths, global_attention_mask)
        cutter = Cutter(state.config, state.family, self.config)
        windows = state.call.windows = cutter.windows(batch)
        tuner = Tuner(state.config, state.budget, cutter, batch, self._encoding(), self, self._layers())
        share = state.call.share = self._share(windows, batch, device)
        self._count(windows, batch, share)
        mine, first = (windows, 0) if share is None else (share.windows, share.first)
        sample = draw(mine, state.config.sampled_windows if self.training and anchor.requires_grad else None)
        together = tuner.prepare()
        learning = cutter.passes(sample.learning, batch, device, windows_per_pass=together, index=first)
        others = cutter.passes(sample.others, batch, device, windows_per_pass=together, index=len(sample.learning))
        num_saved, state.call.keep_projections = tuner.choose_saved(learning, self._trainable())
        plan = ReplayPlan(
            passes=placed([*learning, *others], share) or [cutter.idle_pass(batch, device)],
            rng=ReplayRng(state.config.seed, device),
            shape=tuple(input_ids.shape) if share is None else (1, share.num_rows),
            anchor=anchor,
            num_saved=min(num_saved, len(learning)),
            num_learning=len(learning),
            weight=sample.weight,
            buffer=functools.partial(empty, offload=state.config.offload, folder=state.config.offload_folder),
        )
        return self._states(plan)

    def _share(self, windows: list[Window], batch: Batch, device: torch.device) -> Share | None:
        """This rank's share of the windows, once all ranks of its group are in step; None: it reads alone."""
        group = document_group(self._cached_ds.config.document_parallel)
        if group is None:
            return None
        fall_in_step(group, batch.as_bytes(), device)
        return deal(windows, group, (batch.input_ids.shape[0], batch.input_ids.shape[1]))

    def _states(self, plan: ReplayPlan[EncoderPass]) -> Tensor:
        """H [B, L, D] from all passes: the one step that differs by schedule."""
        return replay(self._encoding(), plan, parameters=self._trainable)

    def _check_parameters(self) -> None:
        check_gathered(self)

    def _named(self, others: tuple[Any, ...]) -> dict[str, Any]:
        """Arguments by position, after ids and mask, with the names that Hugging Face's encoder gives them."""
        names = list(inspect.signature(base_of(self).forward).parameters)[3:] if others else []
        return dict(zip(names, others, strict=False))

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _layers(self) -> list[nn.Module]:
        return list(getattr(self, self._cached_ds.family.layers))

    def _count(self, windows: list[Window], batch: Batch, share: Share | None) -> None:
        counters, tokens = self._cached_ds.counters, sum(document.length for document in batch.documents)
        counters.windows_read += len(windows if share is None else share.windows)
        counters.tokens_read += tokens if share is None else share.num_rows

    def _encoding(self) -> functools.partial[Tensor]:
        """`_encode` in the current mode, training or not: a pass must be recomputed in the same one."""
        return functools.partial(self._encode, training=self.training)

    def _encode(self, encoder_pass: EncoderPass, *, training: bool) -> Tensor:
        """Kept states [K, D] of one pass, by the encoder's own forward."""
        if self.training != training:
            raise RuntimeError("cached_ds: model.train() or model.eval() was called between forward and backward")
        self._cached_ds.count_pass(encoder_pass.index + encoder_pass.num_windows)
        embeddings: Any = self.get_input_embeddings
        with _sparse_gradient(embeddings()), self._compiled(encoder_pass):
            output = super().forward(
                **encoder_pass.inputs, output_attentions=False, output_hidden_states=False, return_dict=True
            )
        return output.last_hidden_state.flatten(0, 1).index_select(0, encoder_pass.slots)

    def _compiled(self, encoder_pass: EncoderPass) -> AbstractContextManager[object]:
        """A context in which passes of the one compiled shape run compiled, and others as they are."""
        shape = self._cached_ds.budget.compiled_shape
        if not shape:
            return nullcontext()
        fits = encoder_pass.inputs["input_ids"].shape == shape
        return run_compiled(fits and "attention_mask" not in encoder_pass.inputs)


def placed(passes: list[EncoderPass], share: Share | None) -> list[EncoderPass]:
    """Passes whose spans are rows of this rank's H."""
    if share is None:
        return passes
    return [dataclasses.replace(each, spans=tuple(map(share.rows, each.spans))) for each in passes]


@contextmanager
def _sparse_gradient(embedding: nn.Module) -> Iterator[None]:
    """Make an embedding's gradient sparse for the block: the rows that a pass read, not a whole table.

    `replay` adds the rows up. A sparse gradient without that of a padding row waits for the device, twice; so the
    gradient is stopped at the embedding's output instead.
    """
    if not isinstance(embedding, nn.Embedding):
        yield
        return
    before, padding = embedding.sparse, embedding.padding_idx
    embedding.sparse, embedding.padding_idx = True, None
    hook = embedding.register_forward_hook(functools.partial(_stop_gradient, padding)) if padding is not None else None
    try:
        yield
    finally:
        embedding.sparse, embedding.padding_idx = before, padding
        if hook is not None:
            hook.remove()


def _stop_gradient(padding: int, module: nn.Module, args: tuple[Tensor, ...], states: Tensor) -> Tensor:  # noqa: ARG001
    """Forward hook of an embedding: the states [N, w, D] of padding tokens have no gradient."""
    return torch.where((args[0] == padding).unsqueeze(-1), states.detach(), states)


def _check_inputs(family: Family, ids: Tensor | None, mask: Tensor | None, others: dict[str, Any]) -> Tensor:
    refused = sorted(name for name in UNREADABLE if others.get(name) is not None)
    if ids is None or refused:
        raise ValueError(f"a windowed encoder takes input_ids [B, L] and no {', '.join(refused) or 'inputs_embeds'}")
    if ids.dim() != 2 or (mask is not None and mask.shape != ids.shape):
        shape = None if mask is None else tuple(mask.shape)
        raise ValueError(f"input_ids {tuple(ids.shape)} and attention_mask {shape} must both be [B, L]")
    if others.get("global_attention_mask") is not None and not family.global_attention:
        raise ValueError("global_attention_mask: this encoder has no global attention; only LED's has")
    return ids
