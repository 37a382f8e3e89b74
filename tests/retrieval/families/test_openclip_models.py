"""That the made-up weights which the parity of open_clip's models is tested with make a fair test."""

from __future__ import annotations

import copy

import numpy as np
import timm
import torch

from tests.retrieval.families.openclip_models import calibrate, scale_weights


def test_deep_networks_with_calibrated_norms_do_not_amplify_rounding() -> None:
    """Else parity on random weights compares how two runtimes round, on the edge of a saturated gate."""
    shape = {"layers": (2, 3, 6, 2), "embed_dims": (16, 32, 32, 64), "mlp_ratios": (2, 2, 2, 2)}
    network = timm.create_model("fastvit_mci0", num_classes=32, **shape).eval()
    scale_weights(network)
    views = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def largest() -> float:
        with torch.inference_mode():
            return float(network.forward_features(views).abs().max())

    made_up = largest()
    calibrate(network, views)
    assert not any(module.training for module in network.modules())
    assert made_up > 1e4
    assert largest() < 100
    with torch.inference_mode():
        single = torch.nn.functional.normalize(network(views), dim=1)
        exact = torch.nn.functional.normalize(copy.deepcopy(network).double()(views.double()), dim=1)
    usual = np.median(torch.pdist(exact))
    assert usual > 0.1
    assert float((single - exact).norm(dim=1).max()) < 1e-4 * usual
