"""What each of two processes does for test_distributed.py; writes what it found to <folder>/<rank>.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from indexer.types import Modality
from retrieval.training.distributed import Ranks, joined
from retrieval.training.losses import Pair, make_loss
from retrieval.training.trainer import Trainer, train
from tests.retrieval.training import tiny

CASES = {
    "infonce": ("clip=0", "modality_dropout=0.5"),
    "sigmoid": ("clip=0", "loss.kind=sigmoid", "chunk=3"),
    "triplet": ("clip=0", "loss.kind=triplet", "loss.negatives=random", "freeze=text", "batch_size=33"),
}


def gradients(more: tuple[str, ...], ranks: Ranks) -> dict[str, list[float]]:
    """Losses and last gradients of two steps."""
    chosen = tiny.options(*more)
    trainer = Trainer(tiny.space(chosen), tiny.source(), tiny.data().train, chosen, ranks=ranks)
    batches = list(trainer.sampler.batches(0))[:2]
    found = {"losses": [float(trainer.step(batch)) for batch in batches]}  # type: ignore[arg-type]
    for name, value in trainer.space.named_parameters():
        found[name] = [] if value.grad is None else value.grad.ravel().tolist()
    return found


def exact(ranks: Ranks) -> dict[str, list[float]]:
    """The same of a matrix a side in float64, five rows between the ranks, and a learned scale."""
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.standard_normal((5, 7))) for _ in range(2))
    sides = [torch.nn.Linear(7, 4, bias=False).double() for _ in range(2)]
    for side in sides:
        side.weight.data = torch.from_numpy(rng.standard_normal((4, 7)))
    scale = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    own = ranks.share(np.arange(5))
    whole = [
        ranks.gather(torch.nn.functional.normalize(side(x[own])), 5)
        for side, x in zip(sides, (first, second), strict=True)
    ]
    mask = torch.eye(5, dtype=torch.bool)
    pair = Pair(a=whole[0], b=whole[1], positive=mask, scale=scale, bias=torch.zeros(()))
    loss = make_loss(tiny.options().loss)(pair)
    (loss / ranks.world).backward()
    unused = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameters = [sides[0].weight, sides[1].weight, scale, unused]
    ranks.add_gradients(parameters)
    assert unused.grad is None
    found = {str(n): p.grad.ravel().tolist() for n, p in enumerate(parameters) if p.grad is not None}
    return found | {"loss": [loss.item()]}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(cpu=True) as (ranks, device):
        assert device == torch.device("cpu")
        found = {name: gradients(more, ranks) for name, more in CASES.items()}
        found["exact"] = exact(ranks)
        assert ranks.any(ranks.rank == 1, device)
        assert not ranks.any(False, device)
        alone = Ranks(ranks.rank, ranks.world)
        assert len(alone.gather(torch.ones(1 - ranks.rank, 3), 1)) == 1  # one content, two ranks
        chosen = tiny.options("epochs=2", "head.dropout=0.1")
        events: list[object] = []
        result = train(
            tiny.space(chosen), tiny.source(), tiny.data(), chosen, folder / "run", on_event=events.append
        )
        again = train(tiny.space(chosen), tiny.source(), tiny.data(), chosen, folder / "run", resume=True)
        assert again == result
        plain = tiny.options("epochs=2")
        same = train(tiny.space(plain), tiny.source(), tiny.data(), plain, folder / "plain")
    facts = {"events": len(events), "best": result.best, "plain": [event.loss for event in same.history]}
    facts["modalities"] = len(Modality)
    (folder / f"{ranks.rank}.json").write_text(json.dumps({"found": found, "facts": facts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
