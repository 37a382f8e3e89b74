"""The starter model's heads: the trained layers that carry backbone features into MiniLM's 384-d space.

Imports torch: only building a bundle, fitting heads and tests may import this. The numbers lie beside it in
`heads/{image,audio}.safetensors`; data/fit_starter_heads.py makes them and docs/starter.md says how good
they are. Both heads have one shape, ConSE plus a residual:

    out = unit(after (conse_gain * unit(sum_k p_k c_k) + residual(unit(x))))

where p are the classifier's `top` largest probabilities at `temperature`, made to sum to one, c_k the text
vector of class k (the convex combination of class names: Norouzi et al. 2014, arXiv:1312.5650), x the
backbone's features, the residual a linear map with a bias or a two-layer network, and `after` a matrix that
evens out the text space: captions crowd along a few of its directions, and those make hubs. A head file
holds all of it, so that another file, of other sizes too, replaces it without a change of code.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.errors import ModelError

DIM = 384
FORMAT = "triptych-head/1"
IMAGE_BASE, AUDIO_BASE = "starter-image", "starter-audio"  # kinds in a BaseHead's description
FOLDER = Path(__file__).parent / "heads"

Head = TypeVar("Head", bound="ConseHead")


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The sizes of one head. Every field can be read from the head's tensors."""

    features: int  # width of the backbone's features
    classes: int  # classes whose names ConSE mixes
    top: int  # how many of them
    hidden: int = 0  # width of the residual's hidden layer; 0: the residual is linear
    classifier: tuple[int, ...] = ()  # hidden widths of the head's own classifier; (): logits are given


class ConseHead(nn.Module):
    """ConSE plus a residual on the features; see the module's formula. Exports to ONNX as it is."""

    class_vectors: Tensor
    temperature: Tensor
    conse_gain: Tensor
    after: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("class_vectors", torch.zeros(shape.classes, DIM))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("conse_gain", torch.ones(()))
        self.register_buffer("after", torch.eye(DIM))
        self.residual: nn.Module = nn.Linear(shape.features, DIM)
        if shape.hidden:
            self.residual = nn.Sequential(
                nn.Linear(shape.features, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, DIM)
            )

    def conse(self, logits: Tensor) -> Tensor:
        """ConSE vectors of unit length, (n, 384), of the classifier's logits (n, classes)."""
        best, which = torch.topk(logits, self.shape.top, dim=1)
        weight = torch.softmax(best / self.temperature, dim=1)
        # A product with a table that is mostly zero: gathering `top` vectors a row moves far more memory.
        shares = weight.new_zeros(logits.shape).scatter(1, which, weight)
        return F.normalize(shares @ self.class_vectors, dim=1)

    def mix(self, features: Tensor, logits: Tensor) -> Tensor:
        """The head's output of unit length, (n, 384)."""
        residual = self.residual(F.normalize(features, dim=1))
        mixed = self.conse_gain * self.conse(logits) + residual
        return F.normalize(mixed @ self.after.T, dim=1)


class ImageHead(ConseHead):
    """EfficientNet-Lite0's features (n, 1280) and ImageNet logits (n, 1000) -> unit vectors (n, 384)."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return self.mix(features, logits)


class AudioHead(ConseHead):
    """The sound network's features (n, 512), averaged over a window's blocks -> unit vectors (n, 384).

    Its classes are those of one of the sound network's own classifiers, a small network on the same
    features that the head carries with it.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__(shape)
        widths = (shape.features, *shape.classifier, shape.classes)
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.classifier = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        return self.mix(features, self.classifier(features))


class BaseHead(nn.Module):
    """A starter head as training meets it: features (n, width) -> unit vectors (n, 384).

    `classifier` is the image backbone's own last layer, a Linear(1280, 1000): cached features lie before it,
    and logits are linear in them, so that those of averaged features are the averaged logits. A sound's head
    carries its classifier already and takes none. `describe` and `from_description` with the state dict
    between them rebuild it without the starter's files.
    """

    def __init__(self, head: ConseHead, classifier: nn.Linear | None = None) -> None:
        super().__init__()
        if isinstance(head, ImageHead) != (classifier is not None):
            raise ModelError("an image head needs the backbone's classifier, a sound's head takes none")
        self.head = head
        self.classifier = classifier
        self.width, self.dim = head.shape.features, DIM

    def forward(self, features: Tensor) -> Tensor:
        found = self.head(features) if self.classifier is None else self._of_picture(features)
        return F.normalize(found, dim=1)

    def _of_picture(self, features: Tensor) -> Tensor:
        assert self.classifier is not None
        return self.head(features, self.classifier(features))

    def describe(self) -> dict[str, Any]:
        """What `from_description` needs beside the tensors, as JSON."""
        kind = IMAGE_BASE if self.classifier is not None else AUDIO_BASE
        return {"kind": kind, "shape": asdict(self.head.shape)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> BaseHead:
        """An empty head of that shape, to be filled by load_state_dict; in eval mode, frozen. ModelError."""
        try:
            sizes = dict(description["shape"])
            shape = HeadShape(**sizes | {"classifier": tuple(sizes.get("classifier", ()))})
            kind = description["kind"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"a base head is described by {description!r}, which lacks its sizes") from error
        if kind == IMAGE_BASE:
            made = cls(ImageHead(shape), nn.Linear(shape.features, shape.classes))
        elif kind == AUDIO_BASE:
            made = cls(AudioHead(shape))
        else:
            raise ModelError(f"unknown base head {kind!r}, expected {IMAGE_BASE} or {AUDIO_BASE}")
        return made.eval().requires_grad_(False)


def load_image_head(path: Path | None = None) -> ImageHead:
    """The image head of a file (by default the shipped one), float32, in eval mode. ModelError."""
    tensors, shape = _read(path or FOLDER / "image.safetensors")
    return _filled(ImageHead(shape), tensors)


def load_audio_head(path: Path | None = None) -> AudioHead:
    """The audio head of a file (by default the shipped one), float32, in eval mode. ModelError."""
    tensors, shape = _read(path or FOLDER / "audio.safetensors")
    return _filled(AudioHead(shape), tensors)


def head_metadata(path: Path) -> dict[str, str]:
    """What a head file says of itself: format, kind, version, top, and how it was fitted."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # safetensors raises its own type, OSError or ValueError
        raise ModelError(f"the head {path.name} cannot be read: {error}") from error


def save_head(head: ConseHead, path: Path, *, metadata: dict[str, str]) -> None:
    """Write a head with its matrices in float16 and its scalars and vectors in float32."""
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().to(torch.float16 if value.ndim > 1 else torch.float32).contiguous()
        for name, value in head.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": FORMAT, "top": str(head.shape.top), **metadata})
    path.chmod(0o644)  # the library leaves it readable by its owner alone


def _read(path: Path) -> tuple[dict[str, Tensor], HeadShape]:
    from safetensors.torch import load_file

    metadata = head_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"the head {path.name} has format {metadata.get('format')!r}, expected {FORMAT!r}",
            hint="make the heads again: python data/fit_starter_heads.py",
        )
    tensors = {name: value.float() for name, value in load_file(path).items()}
    first = next((t for n, t in tensors.items() if n in ("residual.0.weight", "residual.weight")), None)
    if first is None or "class_vectors" not in tensors:
        raise ModelError(f"the head {path.name} lacks a residual or class vectors")
    own = sorted(
        (n for n in tensors if n.startswith("classifier.") and n.endswith("weight")),
        key=lambda name: int(name.split(".")[1]),
    )
    return tensors, HeadShape(
        features=first.shape[1],
        classes=tensors["class_vectors"].shape[0],
        top=int(metadata["top"]),
        hidden=first.shape[0] if "residual.0.weight" in tensors else 0,
        classifier=tuple(tensors[name].shape[0] for name in own[:-1]),
    )


def _filled(head: Head, tensors: dict[str, Tensor]) -> Head:
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"the head's tensors do not fit: {error}") from error
    return head.eval().requires_grad_(False)
