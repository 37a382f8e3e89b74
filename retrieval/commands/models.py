"""`triptych models`: list, show, bring, join, quantise and build model bundles. Parse, wire, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from indexer.errors import ConfigError
from retrieval.commands.talk import JsonFlag, print_json, say, stderr_console

models_app = typer.Typer(
    help="Model bundles: list them, show one, bring a pretrained one, build the starter.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@models_app.command("list", epilog="Example: triptych models list --available")
def models_list(
    available: Annotated[
        bool, typer.Option("--available", help="Pretrained models that are worth bringing.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="With --available: whose models come first, auto, cpu, cuda or mps.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """The models in the cache, or those worth bringing."""
    from retrieval.models.registry import list_models
    from retrieval.render.models import available_json, available_lines, models_json, models_lines

    if device is not None and not available:
        raise ConfigError(
            "--device without --available", hint="it orders the models worth bringing: add --available"
        )
    models = list_models()
    if not available:
        print_json(models_json(models)) if as_json else print("\n".join(models_lines(models)))
        return
    from retrieval.models.families.catalogue import recommend
    from retrieval.runtime.devices import resolve

    where = str(resolve(device or "auto"))
    rows, present = recommend(where), [name for info in models if info.path for name in info.names]
    if as_json:
        print_json(available_json(rows, present))
    else:
        print("\n".join(available_lines(rows, present, where)))


@models_app.command("show", epilog="Example: triptych models show starter")
def models_show(name: Annotated[str, typer.Argument(help="A name or space id.")] = "starter") -> None:
    """One model's towers, weights, licences and space, as JSON."""
    from retrieval.models.registry import model_spec

    print_json(model_spec(name))


@models_app.command("pull", epilog="Example: triptych models pull openclip:ViT-B-32/datacomp_xl_s13b_b90k")
def models_pull(
    name: Annotated[
        str,
        typer.Argument(
            help="openclip:ARCH/TAG, st:NAME, clap:NAME or dir:PATH; @REVISION after it; A+B joins two."
        ),
    ],
    called: Annotated[str | None, typer.Option("--name", help="What to call it here.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to a research-only or non-commercial licence.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings along.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Download and make it again.")] = False,
) -> None:
    """Bring a pretrained model: download it, check it, and export its towers."""
    from retrieval.models.families.pull import pull
    from retrieval.render.models import bundle_lines
    from retrieval.render.progress import build_progress

    with build_progress(stderr_console(), title=None) as progress:
        bundle = pull(
            name,
            called=called,
            accept_licence=accept_licence,
            trust_remote_code=trust_remote_code,
            force=force,
            progress=progress,
        )
    for line in bundle_lines(bundle):
        say(line)


@models_app.command(
    "bridge",
    epilog="Example: triptych models bridge openclip:ViT-B-32/openai clap:laion/clap-htsat-unfused",
)
def models_bridge(
    pictures: Annotated[str, typer.Argument(help="The model whose space it is: pictures and texts.")],
    sounds: Annotated[str, typer.Argument(help="The model whose sounds come into it: sounds and texts.")],
    called: Annotated[str, typer.Option("--name", help="What to call the joined model.")] = "joined",
    texts: Annotated[
        Path | None,
        typer.Option(help="Captions to fit it on, one a line; else those that triptych brings."),
    ] = None,
    heard: Annotated[
        Path | None,
        typer.Option("--sounds", help="A folder of sounds; their mean is moved to where the texts are."),
    ] = None,
    method: Annotated[str, typer.Option(help="auto, ridge, procrustes or contrastive.")] = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Make it again, and take its name from the model that has it.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Join two models through language: sounds land in the space of pictures."""
    from retrieval.models.join import bridge_models
    from retrieval.render.progress import build_progress

    with build_progress(stderr_console(), title=None) as progress:
        report = bridge_models(
            pictures,
            sounds,
            name=called,
            texts=texts,
            sounds=heard,
            method=method,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
    else:
        print("\n".join(report.lines()))


@models_app.command("quantize", epilog="Example: triptych models quantize starter --calibrate ~/Pictures")
def models_quantize(
    name: Annotated[str, typer.Argument(help="A name or space id.")],
    calibrate: Annotated[
        Path,
        typer.Option(help="A folder of pictures like those to be indexed; with captions, recall is told."),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Make an int8 graph of a model's image tower, and say what it costs; `--precision int8` uses it."""
    from retrieval.models.quantize import quantize_model
    from retrieval.render.progress import build_progress

    with build_progress(stderr_console(), title=None) as progress:
        report = quantize_model(name, calibrate, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        print("\n".join(report.lines()))


@models_app.command("build", epilog="Example: triptych models build starter")
def models_build(
    name: Annotated[str, typer.Argument(help="Only `starter` can be built.")] = "starter",
) -> None:
    """Build the starter model from the weights in the installed packages."""
    from retrieval.models.registry import load_model
    from retrieval.render.progress import build_progress

    if name != "starter":
        raise ConfigError(f"{name!r} cannot be built", hint="only `starter` can; `models pull` brings others")
    with build_progress(stderr_console()) as progress:
        bundle = load_model(name, progress=progress)
    say(f"{bundle.name}: {', '.join(bundle.modalities)} in space {bundle.space_id[:12]}, {bundle.path}")
