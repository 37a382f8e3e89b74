"""`triptych models`: list, show, bring, build and join model bundles. Parse, wire, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

from indexer.errors import ConfigError
from retrieval.commands.talk import JsonFlag, print_json, say, stderr_console

models_app = typer.Typer(
    help="Model bundles: list them, show one, bring a pretrained one, build the starter.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@models_app.command("list", epilog="Example: triptych models list")
def models_list(as_json: JsonFlag = False) -> None:
    """The models in the cache, and the starter."""
    from retrieval.models.registry import list_models
    from retrieval.render.report import models_json, models_lines

    models = list_models()
    if as_json:
        print_json(models_json(models))
    else:
        print("\n".join(models_lines(models)))


@models_app.command("show", epilog="Example: triptych models show starter")
def models_show(name: Annotated[str, typer.Argument(help="A name or space id.")] = "starter") -> None:
    """One model's towers, weights, licences and space, as JSON."""
    from retrieval.models.registry import model_spec

    print_json(model_spec(name))


@models_app.command("build", epilog="Example: triptych models build starter")
def models_build(
    name: Annotated[str, typer.Argument(help="Only `starter` can be built.")] = "starter",
) -> None:
    """Build the starter model from the weights in the installed packages."""
    from retrieval.models.registry import load_model
    from retrieval.render.progress import build_progress

    if name != "starter":
        raise ConfigError(f"{name!r} cannot be built", hint="only `starter` can")
    with build_progress(stderr_console()) as progress:
        bundle = load_model(name, progress=progress)
    say(f"{bundle.name}: {', '.join(bundle.modalities)} in space {bundle.space_id[:12]}, {bundle.path}")
