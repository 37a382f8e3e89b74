"""Gradients of a large batch in the memory of a small one: GradCache (Gao et al. 2021, arXiv:2101.06983).

A contrastive loss needs all vectors of a batch at once, but not all activations behind them: encode without
a graph, take the loss and its gradient by each vector, then encode chunk by chunk once more, with a graph,
and push each chunk's part of that gradient through. Loss and gradients equal the plain ones; the price is a
second forward pass. Random numbers are replayed, so that dropout drops the same both times.

No loss and no encoder stands here. Layers that learn from what passes forward (a BatchNorm's running
statistics) see every chunk twice, and normalise by chunk: keep them in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexer.errors import ConfigError, TrainingError
from indexer.types import Modality

Inputs = Tensor | tuple[Tensor, ...]  # of one modality; every tensor's first axis counts items
Encode = Callable[[Modality, Inputs], Tensor]  # inputs of one chunk -> vectors (items, d)
LossOfVectors = Callable[[Mapping[Modality, Tensor]], Tensor]  # all vectors -> a scalar
Contexts = Callable[[], AbstractContextManager[object]]


@dataclass(slots=True)
class _Chunk:
    """Part of one modality's inputs, and the state of random numbers before it was first encoded."""

    modality: Modality
    start: int
    inputs: Inputs
    random: _Random


def backward_in_chunks(
    inputs: Mapping[Modality, Inputs],
    encode: Encode,
    loss_of_vectors: LossOfVectors,
    *,
    chunk: int,
    autocast: Contexts = nullcontext,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Tensor:
    """Add to every parameter's gradient what `loss_of_vectors(...).backward()` would; the loss, detached.

    Parameters of the loss itself (scale, bias) get theirs, too. `chunk` bounds the items encoded at a time.
    `autocast` makes the context that encoding and the loss run in. `backward` is called on the loss: give
    one that scales it for fp16 or divides it by accumulation steps, and all gradients follow. Random numbers
    go on afterwards as if each item had been encoded once. ConfigError for a chunk below 1, TrainingError
    where there is nothing to encode.
    """
    if chunk < 1:
        raise ConfigError(f"the chunk of gradient caching is {chunk}, expected 1 or more")
    chunks, vectors = _encode_all(inputs, encode, chunk, autocast)
    leaves = {modality: rows.detach().requires_grad_() for modality, rows in vectors.items()}
    with autocast():
        loss = loss_of_vectors(leaves)
    backward(loss)
    gradients = {modality: rows.grad for modality, rows in leaves.items() if rows.grad is not None}
    chunks = [part for part in chunks if part.modality in gradients]  # others the loss did not look at
    with _restored(chunks):
        for part in chunks:
            part.random.restore()
            _push(part, encode, gradients[part.modality], autocast)
    return loss.detach()


def _encode_all(
    inputs: Mapping[Modality, Inputs], encode: Encode, chunk: int, autocast: Contexts
) -> tuple[list[_Chunk], dict[Modality, Tensor]]:
    """All vectors by modality, without a graph, and the chunks that they came from."""
    chunks: list[_Chunk] = []
    vectors: dict[Modality, Tensor] = {}
    with torch.no_grad(), autocast():
        for modality, whole in inputs.items():
            found = []
            for start in range(0, _count(modality, whole), chunk):
                part = _take(whole, start, chunk)
                chunks.append(_Chunk(modality, start, part, _Random.of(part)))
                found.append(encode(modality, part))
            if found:
                vectors[modality] = torch.cat(found)
    torch.clear_autocast_cache()  # inside a caller's autocast it would hold weights that have no graph
    if not chunks:
        raise TrainingError("there is nothing to encode: every modality of the batch is empty")
    return chunks, vectors


def _push(part: _Chunk, encode: Encode, gradient: Tensor, autocast: Contexts) -> None:
    with autocast():
        again = encode(part.modality, part.inputs)
    if again.requires_grad:  # a frozen head has nothing to learn
        again.backward(gradient[part.start : part.start + len(again)])


def _take(inputs: Inputs, start: int, chunk: int) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs[start : start + chunk]
    return tuple(one[start : start + chunk] for one in inputs)


def _count(modality: Modality, inputs: Inputs) -> int:
    lengths = {len(one) for one in ((inputs,) if isinstance(inputs, Tensor) else inputs)}
    if len(lengths) != 1:
        raise TrainingError(f"the tensors of {modality} have {sorted(lengths)} items, expected as many each")
    return lengths.pop()


@dataclass(slots=True)
class _Random:
    """The state of torch's random numbers on the CPU and on the GPUs that matter."""

    cpu: Tensor
    cuda: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Inputs) -> _Random:
        """The present state; of the GPUs that inputs lie on, and of the current one if any is in use."""
        tensors = (inputs,) if isinstance(inputs, Tensor) else inputs
        devices = {one.device.index or 0 for one in tensors if one.device.type == "cuda"}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            devices.add(torch.cuda.current_device())
        return cls(torch.get_rng_state(), {at: torch.cuda.get_rng_state(at) for at in sorted(devices)})

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def _restored(chunks: list[_Chunk]) -> Iterator[None]:
    """Put random numbers back, on every device that the chunks use, to where they stood before the block."""
    devices = sorted({at for part in chunks for at in part.random.cuda})
    before = _Random(torch.get_rng_state(), {at: torch.cuda.get_rng_state(at) for at in devices})
    try:
        yield
    finally:
        before.restore()
