"""`triptych train` and `triptych eval`: parse, wire, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrieval.commands.talk import DimFlag, JsonFlag, ModelFlag, print_json, say, stderr_console
from retrieval.config import load_settings


def train(
    source: Annotated[
        str | None,
        typer.Argument(help="A table, a folder with captions, COCO captions, or WebDataset shards."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the new model.")] = None,
    from_index: Annotated[
        Path | None, typer.Option("--from-index", help="Train on the pairs that an index knows.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", "--model", help="The model whose backbones, and heads to start at, are used."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help="infonce, sigmoid, triplet, supcon or distill.")] = None,
    negatives: Annotated[str | None, typer.Option(help="Of triplets: random, hardest or semi-hard.")] = None,
    head: Annotated[str | None, typer.Option(help="linear, mlp, residual or fourier.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Where training begins: base, random, ridge, procrustes, fourier or cca."),
    ] = None,
    unfreeze: Annotated[str, typer.Option(help="Train backbones too: image:2,text:lora,audio:all.")] = "",
    epochs: Annotated[int | None, typer.Option(help="Times through the training rows.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Rows a step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The highest learning rate.")] = None,
    nested: Annotated[
        str | None, typer.Option("--nested", help="Smaller dimensions trained along: 64,128.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of options.")] = None,
    settings_: Annotated[
        list[str] | None, typer.Option("--set", help="Any option as KEY=VALUE; see docs/training.md.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A model whose similarities are learned from (distillation).")
    ] = None,
    tune: Annotated[
        int, typer.Option(min=0, help="First try so many settings of heads, of any kind, on validation.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run saved.")] = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train though content lies on both sides of a split.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Decode processes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Learn a shared space from pairs of pictures, texts and sounds, and write it as a model."""
    from retrieval.render.training import TrainProgress, report_json, report_lines
    from retrieval.training.run import TrainJob, read_options, train_model

    flags: dict[str, object] = {
        "loss.kind": loss,
        "loss.negatives": negatives,
        "head.kind": head,
        "start": start,
    }
    flags |= {"epochs": epochs, "batch_size": batch_size, "lr": lr, "matryoshka": nested}
    flags |= {"device": device, "seed": seed}
    given = [f"{name}={value}" for name, value in flags.items() if value is not None]
    settings = load_settings().with_flags(workers=workers)
    job = TrainJob(
        source=source,
        from_index=from_index,
        out=out,
        base=base or settings.model,
        options=read_options(config, [*given, *(settings_ or [])]),
        unfreeze=unfreeze,
        tune=tune,
        teacher=teacher,
        resume=resume,
        allow_leaks=allow_leaks,
    )
    with TrainProgress(stderr_console()) as on_event:
        report = train_model(job, settings=settings, on_event=on_event)
    if report is None:  # another of several processes reports
        return
    if as_json:
        print_json(report_json(report))
    else:
        for line in report_lines(report):
            say(line)


def evaluate(
    source: Annotated[
        str, typer.Argument(help="What `train` reads, or an index (its own vectors are measured).")
    ],
    split: Annotated[str | None, typer.Option(help="train, validation, test (rows' default) or all.")] = None,
    model: ModelFlag = None,
    dim: DimFlag = None,
    compare: Annotated[str | None, typer.Option(help="Another model: paired differences are shown.")] = None,
    by_label: Annotated[
        bool, typer.Option("--by-label", help="Relevant is what has the same label.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots to this file.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decode processes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure retrieval between modalities: recall, ranks and their intervals, in every direction."""
    from retrieval.evaluation.measure import EvalJob, measure
    from retrieval.render.evaluation import comparison_lines, evaluation_lines
    from retrieval.render.progress import UpdateProgress, build_progress
    from retrieval.render.table import terminal_width

    console = stderr_console()
    settings = load_settings().with_flags(workers=workers)
    job = EvalJob(source, split, model=model, dim=dim, compare=compare, by_label=by_label, html=html)
    with build_progress(console) as on_build, UpdateProgress(console, title="encoding") as on_event:
        result = measure(job, settings=settings, on_build=on_build, on_event=on_event)
    for note in result.notes:
        say(note)
    if as_json:
        print_json(result.to_json())
        return
    width = terminal_width()
    lines = evaluation_lines(result.evaluation, width=width)
    if result.comparison is not None:
        names = result.about.model, str(result.about.against)
        lines += ["", *comparison_lines(result.comparison, *names, width=width)]
    print("\n".join(lines))
    if html:
        say(f"report: {html}")
