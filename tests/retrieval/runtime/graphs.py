"""Small torch graphs, and inputs for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.models.export import TextGraph, ViewGraph
from retrieval.runtime.torch import TorchOptions, TorchRuntime

WIDTH = 8


class Mixed(nn.Module):
    """Views (n, 4, 4, 3) in bytes -> a nonlinear embedding (n, WIDTH) whose weights a seed gives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second = nn.Linear(48, 32), nn.Linear(32, WIDTH)

    def forward(self, views: Tensor) -> Tensor:
        flat = views.flatten(1).float() / 127.5 - 1
        return self.second(torch.tanh(3 * self.first(flat)))


class Words(nn.Module):
    """Ids and mask (n, tokens) -> a vector a token, (n, tokens, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.table = nn.Embedding(50, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.table(ids)


class Placed(Words):
    """As Words, with an embedding of each position, of which there are `positions`."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(positions, WIDTH))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.table(ids) + self.places[: ids.shape[1]]


def view_graph() -> ViewGraph:
    torch.manual_seed(9)
    return ViewGraph(Mixed(), nn.Linear(WIDTH, WIDTH)).eval()


def text_graph() -> TextGraph:
    return TextGraph(Words()).eval()


def load(place: str, *, kind: str = "views", note: object = None) -> TorchRuntime:
    """What a child loads."""
    graph = view_graph() if kind == "views" else text_graph()
    return TorchRuntime.open(graph, "cpu", options=TorchOptions(rows=4))
