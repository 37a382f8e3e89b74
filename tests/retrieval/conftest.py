"""Models that several files of tests share, each written and exported once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retrieval.models.bundle import Bundle
from tests.retrieval.families.clap_models import write_clap


@dataclass(frozen=True)
class PulledClap:
    """A bundle as `models pull` leaves it in a cache. Write into neither."""

    name: str
    home: Path  # TRIPTYCH_HOME
    bundle: Bundle


@pytest.fixture(scope="session")
def pulled_clap(tmp_path_factory: pytest.TempPathFactory) -> PulledClap:
    """A small CLAP model whose sounds' network is the fused one, with the graphs of both its towers."""
    from retrieval.models.families.build import write_family

    folder, home = tmp_path_factory.mktemp("clap"), tmp_path_factory.mktemp("clap-home")
    write_clap(folder, fused=True)
    name = "clap:example/small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_HOME", str(home))
        bundle = write_family(name, "clap", folder)
    assert not bundle.spec.provenance["torch only"]
    return PulledClap(name, home, bundle)
