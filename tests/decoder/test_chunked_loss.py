"""The chunked loss: Hugging Face's numbers, without tensors of the logits' size."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.trainer_pt_utils import LabelSmoother

from cached_ds.decoder.chunked_loss import ChunkedHead, Request, attach_loss, detach_loss, has_chunked_loss
from cached_ds.settings import device_sizes
from helpers import engines, tiny
from helpers.compare import EXACT, gradients, worst_error
from helpers.engines import FP32

families = pytest.mark.parametrize("family", tiny.FAMILIES)
TARGET = 7  # 2 x 7 positions: five chunks of three, the last one ragged


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(device_sizes, "logits_per_chunk", lambda _: 3 * tiny.VOCABULARY + 5)


def make(family="bart", dtype=torch.float64):
    """A model and its copy with a chunked loss; biases of the logits are not zero."""
    model = tiny.make_model(family, dtype=dtype)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    ours = copy.deepcopy(model)
    attach_loss(ours)
    return model, ours


def batch_of(family="bart"):
    """Labels of which some are ignored, one in the middle."""
    batch = tiny.make_batch(family, (16, 16), target=TARGET)
    batch["labels"][1, 2] = -100
    return batch


def check(ours, model, loss, expected, tolerance=EXACT):
    """The same loss, and after backward the same gradients, also where there is none."""
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert worst_error(gradients(ours), gradients(model)) < tolerance
    assert all((p.grad is None) == (q.grad is None) for p, q in zip(ours.parameters(), model.parameters(), strict=True))


@families
def test_loss_and_gradients_are_hugging_faces(family):
    model, ours = make(family)
    output, expected = ours(**batch_of(family)), model(**batch_of(family))
    assert type(output) is type(expected) and output.logits is None and "logits" not in output
    check(ours, model, output.loss, expected.loss)
    assert ours.lm_head.request is None


@pytest.mark.parametrize("logits", [1, 10**9])
def test_one_position_at_a_time_and_all_at_once(logits, monkeypatch):
    monkeypatch.setattr(device_sizes, "logits_per_chunk", lambda _: logits)
    model, ours = make()
    check(ours, model, ours(**batch_of()).loss, model(**batch_of()).loss)


@pytest.mark.parametrize("num_items", [None, 5, torch.tensor(23)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_label_smoothing_and_num_items_in_batch(family, smoothing, num_items):
    model, ours = make(family)
    batch = batch_of(family)
    smoother = LabelSmoother(epsilon=smoothing)
    expected = smoother(model(**batch), batch["labels"])
    if num_items is not None:  # which LabelSmoother knows since transformers 5.15
        expected = expected * batch["labels"].ne(-100).sum() / num_items
    loss = ours(**batch, label_smoothing=smoothing, num_items_in_batch=num_items).loss
    check(ours, model, loss, expected, EXACT if smoothing == 0 else 1e-7)  # LabelSmoother adds up in float32


def untie(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def freeze_head(model):
    untie(model)
    model.lm_head.weight.requires_grad_(False)


def freeze_all_but_the_head(model):
    untie(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "lm_head.weight")


def add_bias(model):
    model.lm_head.bias = nn.Parameter(torch.linspace(-1, 1, tiny.VOCABULARY, dtype=torch.float64))


@pytest.mark.parametrize("change", [untie, freeze_head, freeze_all_but_the_head, add_bias])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_heads(family, change):
    model, ours = make(family)
    for each in (model, ours):
        change(each)
    check(ours, model, ours(**batch_of(family)).loss, model(**batch_of(family)).loss)


def test_t5_without_the_scaling_of_tied_embeddings():
    model, ours = make("t5")
    model.config.scale_decoder_outputs = ours.config.scale_decoder_outputs = not model.config.scale_decoder_outputs
    check(ours, model, ours(**batch_of("t5")).loss, model(**batch_of("t5")).loss)


@families
def test_tuples(family):
    model, ours = make(family)
    found, expected = (each(**batch_of(family), return_dict=False, use_cache=False) for each in (ours, model))
    assert torch.allclose(found[0], expected[0], rtol=EXACT)
    assert len(found) == len(expected) and found[1] is None, "the place of the logits"
    assert torch.equal(found[-1], expected[-1])


def test_decoder_inputs_of_the_caller_are_used():
    model, ours = make()
    batch = batch_of() | {"decoder_input_ids": torch.full((2, TARGET), 9)}
    check(ours, model, ours(**batch).loss, model(**batch).loss)


def test_labels_of_another_length_are_refused_and_forgotten():
    _, ours = make()
    batch = batch_of()
    with pytest.raises(ValueError, match=r"labels \(2, 7\) must have the decoder's shape, \(2, 4\)"):
        ours(**batch | {"decoder_input_ids": batch["labels"][:, :4].clamp(min=0)})
    assert ours.lm_head.request is None
    assert ours.lm_head(torch.zeros(2, 3, tiny.WIDTH, dtype=torch.float64)).shape == (2, 3, tiny.VOCABULARY)


def test_all_labels_ignored():
    """Nan, and no gradient that is not zero or nan, as Hugging Face has it."""
    model, ours = make()
    batch = batch_of()
    batch["labels"].fill_(-100)
    for each in (model, ours):
        loss = each(**batch, decoder_input_ids=torch.full((2, TARGET), 9)).loss
        assert loss.isnan()
        loss.backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradients(ours)[name].nan_to_num(), gradient.nan_to_num()), name


@families
@pytest.mark.parametrize("how", ["eval", "no_grad", "without labels"])
def test_everything_else_is_hugging_faces(family, how):
    model, ours = make(family)
    batch = batch_of(family)
    labels = batch.pop("labels")
    if how == "without labels":
        batch["decoder_input_ids"] = labels.clamp(min=0)
    else:
        batch["labels"] = labels
    with torch.set_grad_enabled(how != "no_grad"):
        found, expected = (each.train(how != "eval")(**batch) for each in (ours, model))
    assert found.keys() == expected.keys()
    assert torch.equal(found.logits, expected.logits)
    assert how == "without labels" or torch.equal(found.loss, expected.loss)


def test_smoothing_that_would_be_ignored_is_refused():
    _, ours = make()
    with pytest.raises(ValueError, match="label_smoothing: only a model in training mode"):
        ours.eval()(**batch_of(), label_smoothing=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_models_have_a_loss_in_float32(dtype):
    """As far from the exact numbers as Hugging Face's way in this precision, or nearer."""
    model, ours = make(dtype=dtype)
    exact = copy.deepcopy(model).double()
    losses = [each(**batch_of()).loss for each in (exact, model, ours)]
    assert losses[2].dtype == torch.float32
    for loss in losses:
        loss.backward()
    truth, theirs, mine = (
        torch.cat([g.double().flatten() for g in gradients(m).values()]) for m in (exact, model, ours)
    )
    assert abs(losses[2] - losses[0]) < 2 * abs(losses[1] - losses[0]) + 1e-3
    assert (mine - truth).norm() < 1.2 * (theirs - truth).norm()


def test_autocast():
    """The precision of the forward holds in backward, and no weight cast without a graph stays in autocast's cache."""
    model, ours = make(dtype=torch.float32)
    for each in (model, ours):
        with torch.autocast("cpu", torch.bfloat16):
            first = each(**batch_of()).loss
            batch = batch_of()
            logits = each(**batch | {"labels": None, "decoder_input_ids": batch["labels"].clamp(min=0)}).logits
            second = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        (first + second).backward()
        assert first.dtype == torch.float32
    assert (
        worst_error({"head": gradients(ours)["model.shared.weight"]}, {"head": model.model.shared.weight.grad}) < 1e-2
    )


def is_logits(tensor):
    """Of the vocabulary's width; not the weight, transposed."""
    return tensor.shape[-1:] == (tiny.VOCABULARY,) and tensor.shape[:-1] not in [(), (tiny.WIDTH,)]


class LargestLogits(TorchDispatchMode):
    """The numbers in the largest tensor over the vocabulary that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor) and is_logits(tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


def test_logits_exist_by_chunks_only_in_forward_and_in_backward():
    sizes, batch = [], tiny.make_batch("bart", (16, 16), target=60)
    for model in make():
        with LargestLogits() as largest:
            model(**batch).loss.backward()
        sizes.append(largest.numel)
    assert sizes == [120 * tiny.VOCABULARY, 3 * tiny.VOCABULARY]


def test_nothing_of_the_logits_size_is_kept_for_backward():
    _, ours = make()
    kept, batch = [], tiny.make_batch("bart", (16, 16), target=60)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        states = ours.model(batch["input_ids"], decoder_input_ids=batch["labels"].clamp(min=0)).last_hidden_state
        before = len(kept)
        ours.lm_head.request = Request(batch["labels"], smoothing=0.1, num_items=None, bias=None)
        ours.lm_head(states)
    assert {tuple(shape) for shape in kept[before:]} == {(120, tiny.WIDTH), (120,), (tiny.VOCABULARY, tiny.WIDTH), ()}


def test_backward_twice_with_a_kept_graph_and_no_second_derivative():
    _, ours = make()
    loss = ours(**batch_of()).loss
    loss.backward(retain_graph=True)
    once = {name: gradient.clone() for name, gradient in gradients(ours).items()}
    loss.backward()
    assert worst_error(gradients(ours), {name: 2 * gradient for name, gradient in once.items()}) < EXACT
    with pytest.raises(RuntimeError, match="create_graph=True .* through the loss"):
        torch.autograd.grad(ours(**batch_of()).loss, ours.lm_head.weight, create_graph=True)


@families
def test_copies_keep_it_and_detach_restores_everything(family):
    model, ours = make(family)
    expected = ours(**batch_of(family)).loss
    assert list(ours.state_dict()) == list(model.state_dict())
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert has_chunked_loss(copied) and torch.equal(copied(**batch_of(family)).loss, expected)
        detach_loss(copied)
        assert type(copied.lm_head) is nn.Linear and vars(copied.lm_head).keys() == vars(model.lm_head).keys()
        assert not any(hooks for name, hooks in vars(copied).items() if "_hooks" in name)
        assert torch.equal(copied(**batch_of(family)).loss, model(**batch_of(family)).loss)


def test_another_head_is_left_as_it_is():
    model, ours = make()
    detach_loss(ours)
    ours.lm_head = nn.Sequential(ours.lm_head)
    attach_loss(ours)
    assert not any(isinstance(module, ChunkedHead) for module in ours.modules())
    assert torch.equal(ours(**batch_of()).logits, model(**batch_of()).logits)


def parity_in_chunks(engine, change):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_sizes, "logits_per_chunk", lambda _: 3 * tiny.VOCABULARY)
        return engines.parity("bart", engine, 0.1, steps=2, accumulation=2, windows=(1, 2), change=change)


@pytest.mark.parametrize("change", [None, untie, freeze_all_but_the_head])
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero2", "zero3"])
def test_many_chunks_under_engines(zero_ranks, engine, change):
    assert max(zero_ranks.run(parity_in_chunks, engine=engine, change=change)) < FP32
