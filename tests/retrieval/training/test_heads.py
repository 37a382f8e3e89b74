"""Heads: what they compute, how they start, that they describe themselves, and that ONNX says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError, ModelError, TrainingError
from retrieval.models.starter.heads import AudioHead, BaseHead, HeadShape, ImageHead
from retrieval.training.described import AsTheyAre, Prefix, head_from_description
from retrieval.training.heads import (
    Affine,
    Fourier,
    Head,
    HeadKind,
    HeadOptions,
    HiddenNorm,
    InputNorm,
    Mlp,
    OnBase,
    Residual,
    make_head,
    unit_rows,
)

WIDTH, DIM = 12, 8
KINDS = [HeadKind.LINEAR, HeadKind.MLP, HeadKind.RESIDUAL, HeadKind.FOURIER]


def features(count: int = 5, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 3.0 + 1.0


def head_of(kind: str, *, width: int = WIDTH, dim: int = DIM, seed: int = 0, **options: object) -> Head:
    return make_head(HeadOptions(HeadKind(kind), hidden=16, **options), width, dim, seed=seed)  # type: ignore[arg-type]


def sound_base() -> BaseHead:
    """A sound's head on 12 features with made-up numbers."""
    return BaseHead(randomised(AudioHead(HeadShape(features=WIDTH, classes=6, top=3, classifier=(7,)))))


def picture_base() -> BaseHead:
    head = randomised(ImageHead(HeadShape(features=WIDTH, classes=6, top=3)))
    return BaseHead(head, randomised(nn.Linear(WIDTH, 6)))


def randomised(module: nn.Module) -> nn.Module:  # type: ignore[type-var]
    generator = torch.Generator().manual_seed(3)
    state = module.state_dict()
    for name, value in state.items():
        value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if name == "temperature" else -0.4))
    module.load_state_dict(state)
    return module.eval()


@torch.no_grad()
def test_each_kind_is_its_formula() -> None:
    x = features()
    unit = x / x.norm(dim=1, keepdim=True)
    linear = head_of("linear")
    assert isinstance(linear.body, Affine)
    nn.init.normal_(linear.body.last.bias)
    torch.testing.assert_close(linear(x), unit @ linear.body.last.weight.T + linear.body.last.bias)

    mlp = head_of("mlp", layers=2).body
    assert isinstance(mlp, Mlp)
    first, second = mlp.hidden[0], mlp.hidden[3]
    inner = nn.functional.gelu(first(unit * WIDTH**0.5))
    inner = nn.functional.gelu(second(inner))
    torch.testing.assert_close(head_of("mlp", layers=2)(x), mlp.last(inner))

    fourier = head_of("fourier", gamma=0.5)
    body = fourier.body
    assert isinstance(body, Fourier)
    waves = torch.cos(unit @ body.omega + body.phase) * (2 / 16) ** 0.5
    torch.testing.assert_close(fourier(x), body.last(waves))

    residual = head_of("residual").body
    assert isinstance(residual, Residual)
    torch.testing.assert_close(residual(unit), residual.skip(unit))  # the branch starts at zero
    nn.init.normal_(residual.last.weight)
    branch = residual.last(residual.hidden(unit * WIDTH**0.5))
    assert branch.abs().min() > 0
    torch.testing.assert_close(residual(unit), residual.skip(unit) + branch)

    torch.testing.assert_close(make_head(HeadOptions(HeadKind.IDENTITY), WIDTH, WIDTH, seed=0)(x), unit)
    kept = make_head(HeadOptions(HeadKind.IDENTITY, input_norm=InputNorm.NONE), WIDTH, WIDTH, seed=0)
    torch.testing.assert_close(kept(x), x)


@torch.no_grad()
def test_fourier_features_give_the_kernel() -> None:
    head = make_head(HeadOptions(HeadKind.FOURIER, hidden=60_000, gamma=0.7), 3, 2, seed=0)
    x = unit_rows(features(6, 3))
    body = head.body
    assert isinstance(body, Fourier)
    raised = torch.cos(x @ body.omega + body.phase) * body.gain
    exact = torch.exp(-0.7 * torch.cdist(x, x) ** 2)
    torch.testing.assert_close(raised @ raised.T, exact, atol=0.02, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", list(InputNorm))
def test_outputs_start_at_about_one_length_and_spread_out(kind: HeadKind, norm: InputNorm) -> None:
    options = HeadOptions(kind, hidden=256, input_norm=norm, gamma=0.5)
    x = torch.randn(200, 320, generator=torch.Generator().manual_seed(1))
    found = make_head(options, 320, 64, seed=0)(x)
    lengths = found.norm(dim=1)
    typical = (
        1.0 if kind is HeadKind.FOURIER or (norm is InputNorm.UNIT and kind is not HeadKind.MLP) else 8.0
    )
    assert 0.6 * typical < lengths.median() < 1.5 * typical
    cosines = unit_rows(found) @ unit_rows(found).T
    spread = 0.75 if kind is HeadKind.MLP else 0.5  # a GELU's mean is above zero
    assert cosines[~torch.eye(200, dtype=torch.bool)].mean().abs() < spread


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_is_all_that_decides(kind: HeadKind) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = head_of(kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again, other = head_of(kind, seed=1), head_of(kind, seed=2)
    x = features()
    assert torch.equal(first(x), again(x))
    assert not torch.allclose(first(x), other(x))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_sleeps_in_eval_mode(kind: HeadKind) -> None:
    head, plain = head_of(kind, dropout=0.5), head_of(kind)
    if kind is HeadKind.RESIDUAL:  # its branch would hide it, being zero
        for one in (head, plain):
            assert isinstance(one.body, Residual)
            nn.init.eye_(one.body.last.weight)
    x = features()
    torch.testing.assert_close(head.eval()(x), plain.eval()(x))
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(x), plain(x))


def test_norms_do_what_they_say() -> None:
    x = features(64)
    shifted = x * 50.0 + 7.0
    layered = head_of("mlp", input_norm=InputNorm.LAYER)
    torch.testing.assert_close(layered(shifted), layered(x), atol=1e-3, rtol=1e-3)
    scaled = head_of("linear")
    torch.testing.assert_close(scaled(x * 50.0), scaled(x))
    assert not torch.allclose(head_of("linear", input_norm=InputNorm.NONE)(x * 50.0), scaled(x))
    batch = head_of("mlp", hidden_norm=HiddenNorm.BATCH).train()
    assert isinstance(batch.body, Mlp)
    inner = batch.body.hidden[1](batch.body.hidden[0](x))
    torch.testing.assert_close(inner.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    batch.eval()
    torch.testing.assert_close(batch(x)[3:4], batch(x[3:4]))  # running statistics: rows alone
    layer = head_of("mlp", hidden_norm=HiddenNorm.LAYER)
    assert isinstance(layer.body, Mlp)
    inner = layer.body.hidden[1](layer.body.hidden[0](x))
    torch.testing.assert_close(inner.mean(dim=1), torch.zeros(64), atol=1e-5, rtol=0)


def test_a_blank_row_stays_zero_and_its_gradient_is_finite() -> None:
    rows = torch.zeros(2, 4, requires_grad=True)
    found = unit_rows(rows + torch.tensor([[0.0], [1.0]]) * torch.tensor([3.0, 0.0, 4.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0] * 4, [0.6, 0.0, 0.8, 0.0]]))
    (found * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad[0], torch.zeros(4))
    torch.testing.assert_close(rows.grad[1], torch.tensor([-0.16, 0.4, 0.12, 0.8]))


@pytest.mark.parametrize("kind", KINDS)
def test_on_base_begins_at_the_base_and_leaves_it_alone(kind: HeadKind) -> None:
    base = sound_base().train().requires_grad_(True)
    whole = OnBase(base, head_of(kind, dim=384, dropout=0.3)).train()
    x = features()
    assert not base.training
    assert torch.equal(whole(x), base(x))
    kept = {name: value.clone() for name, value in base.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (whole(x) - 1.0).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(whole.eval()(x), base(x))
    assert all(torch.equal(value, kept[name]) for name, value in base.state_dict().items())
    assert all(parameter.grad is None for parameter in base.parameters())
    assert whole.gain.grad is not None


def test_an_identity_cannot_lie_on_a_base() -> None:
    identity = make_head(HeadOptions(HeadKind.IDENTITY), 384, 384, seed=0)
    with pytest.raises(TrainingError, match="no layer that could start at zero"):
        OnBase(sound_base(), identity)
    with pytest.raises(TrainingError, match="the head on it 8"):
        OnBase(sound_base(), head_of("linear"))


@torch.no_grad()
def test_heads_come_back_from_their_descriptions() -> None:
    made = [head_of(kind, input_norm="layer", hidden_norm="batch", dropout=0.1) for kind in KINDS]
    narrow = Prefix(sound_base(), 20)
    bases = [sound_base(), picture_base(), narrow]
    for head in (
        *made,
        *(OnBase(base, head_of("mlp", dim=dim)) for base, dim in zip(bases, (384, 384, 20), strict=True)),
    ):
        for parameter in head.parameters():  # away from any start
            parameter.add_(0.1)
        whole = head.eval()
        again = head_from_description(whole.describe())
        again.load_state_dict(whole.state_dict())
        assert torch.equal(again.eval()(features()), whole(features()))
        assert {n: p.requires_grad for n, p in again.named_parameters()} == {
            n: p.requires_grad for n, p in whole.named_parameters()
        }


@torch.no_grad()
def test_a_base_models_heads_are_what_they_hold() -> None:
    x = features()
    sound, picture = sound_base(), picture_base()
    torch.testing.assert_close(sound(x), sound.head(x))
    torch.testing.assert_close(picture(x), picture.head(x, picture.classifier(x)))
    first = sound(x)[:, :20]
    torch.testing.assert_close(Prefix(sound, 20)(x), first / first.norm(dim=1, keepdim=True))
    assert torch.equal(AsTheyAre()(x), x)
    with pytest.raises(ModelError, match="class Tanh has no description"):
        OnBase(nn.Tanh(), head_of("linear")).describe()
    with pytest.raises(ModelError, match="takes none"):
        BaseHead(sound.head, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "os.system"}, "unknown kind of head 'os.system'"),
        ({"kind": "head", "options": {"kind": "linear"}}, "'width'"),
        ({"kind": "head", "options": {"depth": 3}, "width": 2, "dim": 2}, "depth"),
        (
            {"kind": "head", "options": {"kind": "cubic"}, "width": 2, "dim": 2},
            "'cubic', expected one of linear",
        ),
        (
            {"kind": "on-base", "base": {"kind": "features"}, "head": {"kind": "features"}},
            "no head of its own",
        ),
        ({"kind": "starter-audio", "shape": {"features": 3}}, "lacks its sizes"),
        ([], "no table"),
    ],
)
def test_damaged_descriptions_are_refused(description: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        head_from_description(description)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"head.hidden is 0, expected 1 or more"),
        ({"layers": 0}, r"head.layers is 0"),
        ({"dropout": 1.0}, r"less than 1"),
        ({"gamma": float("nan")}, r"head.gamma is nan"),
        ({"input_norm": "batch"}, r"head.input_norm is 'batch', expected one of unit, layer, none"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HeadOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keeps 12 numbers, the space has 8"):
        head_of("identity")


def onnx_outputs(module: nn.Module, path: Path, batches: list[Tensor]) -> list[np.ndarray]:
    torch.onnx.export(
        module,
        (batches[0],),
        str(path),
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": batch.numpy()})[0] for batch in batches]


class Both(nn.Module):
    """Several heads in one graph, so that the exporter runs once; each one's output at unit length."""

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([unit_rows(head(x)) for head in self.heads], dim=1)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_every_kind_exports_to_onnx(tmp_path: Path) -> None:
    heads: list[nn.Module] = [
        head_of("linear", dropout=0.2),
        head_of("linear", input_norm="none", bias=False),
        head_of("mlp", layers=2, hidden_norm="layer", dropout=0.2),
        head_of("mlp", input_norm="layer", hidden_norm="batch"),
        head_of("residual"),
        head_of("fourier"),
        make_head(HeadOptions(HeadKind.IDENTITY), WIDTH, WIDTH, seed=0),
        OnBase(sound_base(), head_of("residual", dim=384)),
        Prefix(picture_base(), 20),
    ]
    for head in heads:
        for name, parameter in head.named_parameters():
            if not name.startswith(("base.", "head.head.", "head.classifier.")):
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
                )
    whole = Both(heads).eval()
    batches = [features(3), features(1, seed=1), torch.cat([features(6, seed=2), torch.zeros(1, WIDTH)])]
    for batch, found in zip(batches, onnx_outputs(whole, tmp_path / "h.onnx", batches), strict=True):
        np.testing.assert_allclose(found, whole(batch).numpy(), atol=2e-5)
