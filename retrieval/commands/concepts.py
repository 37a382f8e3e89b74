"""`triptych concept`: learn, mark, list, show, remove, export, import. Parse, wire, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from indexer.errors import ConfigError
from retrieval.commands.place import IndexFlag, chosen_index, modalities, say_build
from retrieval.commands.talk import JsonFlag, ModelFlag, print_json, say
from retrieval.config import load_settings
from retrieval.render.escape import near, printable, snippet

if TYPE_CHECKING:
    from retrieval.query.concepts.concept import Concept
    from retrieval.query.concepts.probe import Measured
    from retrieval.types import Hit

SEVERAL = ("--yes", "--no")  # options that take all that follows, up to the next option
PROMPT = "  good? [y]es [n]o [s]kip [q]uit: "


class SeveralValues(TyperCommand):
    """A command whose options --yes and --no take several values each: `--yes a.jpg b.jpg --no c.jpg`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(args: Sequence[str], options: Sequence[str] = SEVERAL) -> list[str]:
    """Arguments in which an option that is followed by several values stands before each of them.

    `--` ends the options, and what follows it is left as it is. A value that begins with - is written ./-x.
    """
    found: list[str] = []
    option = ""  # whose values come
    for place, argument in enumerate(args):
        if argument == "--":
            return [*found, *args[place:]]
        if argument.startswith("-") and argument != "-":
            name, equals, _ = argument.partition("=")
            option = name if name in options else ""
            if not option or equals or _alone(args, place):
                found.append(argument)
        else:
            found += [option, argument] if option else [argument]
    return found


def _alone(args: Sequence[str], place: int) -> bool:
    """Whether no value follows: the option stays, for click to say that it lacks one."""
    after = args[place + 1 : place + 2]
    return not after or (after[0].startswith("-") and after[0] != "-")


concepts_app = typer.Typer(
    help="Concepts: learned from hits marked good and bad, and searched as concept:NAME.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(help="Small letters, digits and -, at most 64.")]
ReplaceFlag = Annotated[bool, typer.Option("--replace", help="Replace the concept of that name.")]


@concepts_app.command(
    cls=SeveralValues,
    epilog="Example: triptych concept learn my-boat --yes a.jpg b.jpg --no c.jpg;"
    " then triptych search concept:my-boat",
)
def learn(
    name: NameArgument,
    yes: Annotated[
        list[str] | None,
        typer.Option(
            "--yes",
            metavar="WHICH...",
            help="Good examples: files, item ids, or numbers of the last search's hits; several may follow.",
        ),
    ] = None,
    no: Annotated[
        list[str] | None, typer.Option("--no", metavar="WHICH...", help="Bad examples, likewise.")
    ] = None,
    index: IndexFlag = None,
    model: ModelFlag = None,
    replace: ReplaceFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Learn a concept from examples, and keep it in the index. Files outside the index serve too."""
    settings = load_settings()
    place = chosen_index(index, settings)
    _teach(place, name, yes or [], no or [], model=model, over=replace, as_json=as_json)


@concepts_app.command(epilog='Example: triptych concept mark my-boat "a boat" --in image')
def mark(
    name: NameArgument,
    query: Annotated[str, typer.Argument(help="What to search for, as `triptych search` takes it.")],
    within: Annotated[
        str | None, typer.Option("--in", help="Modalities to search: image,text,audio.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits to go through, at most.")] = 20,
    index: IndexFlag = None,
    model: ModelFlag = None,
    replace: ReplaceFlag = False,
) -> None:
    """Go through the hits of a search, say which are good, and learn a concept from that."""
    if not _at_terminal():
        raise ConfigError(
            "mark asks about each hit, and standard input is no terminal",
            hint="name the examples: triptych concept learn NAME --yes ... --no ...",
        )
    from retrieval.query.concepts.concept import check_free
    from retrieval.query.searcher import Searcher
    from retrieval.query.session import save as remember

    settings = load_settings()
    place = chosen_index(index, settings)
    check_free(place, name, over=replace)  # before anybody has marked anything
    with Searcher.open(place, model=model, threads=settings.threads, on_build=say_build) as searcher:
        result = searcher.search(query, k=k, modalities=modalities(within))
    remember(result)
    yes, no = marked(result.hits, ask=_ask, show=say)
    if not yes:
        say("nothing was marked good; nothing is learned")
        raise typer.Exit(1)
    _teach(place, name, [str(rank) for rank in yes], [str(rank) for rank in no], model=model, over=replace)


def marked(
    hits: Sequence[Hit], *, ask: Callable[[], str], show: Callable[[str], None]
) -> tuple[list[int], list[int]]:
    """The ranks of hits that were said to be good and to be bad. `ask` gives an answer, "" at its end."""
    sides: dict[str, list[int]] = {"y": [], "n": []}
    for hit in hits:
        shown = near(hit.path) if hit.path else snippet(hit.text or hit.item_id)
        show(f"{hit.rank}/{hits[-1].rank}  {shown}{f'  {hit.where}' if hit.where else ''}")
        while (answer := ask().strip().lower()[:1]) not in ("y", "n", "s", "q", ""):
            show("  y, n, s or q")
        if answer in ("q", ""):
            break
        sides.get(answer, []).append(hit.rank)
    return sides["y"], sides["n"]


@concepts_app.command("list", epilog="Example: triptych concept list --json")
def list_concepts(index: IndexFlag = None, as_json: JsonFlag = False) -> None:
    """The concepts of an index, with what was measured when they were learned."""
    from indexer.snapshot import Snapshot
    from retrieval.query.concepts.concept import load, names

    with Snapshot.open(chosen_index(index, load_settings())) as snapshot:
        found = [load(snapshot, name) for name in names(snapshot)]
    if as_json:
        print_json([concept_json(one) for one in found])
    elif not found:
        say("there is no concept yet: triptych concept learn NAME --yes a.jpg b.jpg")
    for one in [] if as_json else found:
        print(f"{one.name}  {kinds_of(one)}, {one.yes} good, {one.no} bad; {short_line(one.measured)}")


@concepts_app.command(epilog="Example: triptych concept show my-boat")
def show(name: NameArgument, index: IndexFlag = None, as_json: JsonFlag = False) -> None:
    """A concept: its examples, and what was measured when it was learned."""
    concept = _loaded(name, index)
    if as_json:
        print_json(concept_json(concept))
    else:
        print("\n".join(concept_lines(concept)))


@concepts_app.command(epilog="Example: triptych concept remove my-boat")
def remove(name: NameArgument, index: IndexFlag = None) -> None:
    """Take a concept out of the index. Its examples stay."""
    from retrieval.query.concepts.concept import remove as take_out

    take_out(chosen_index(index, load_settings()), name)
    say(f"removed {name}")


@concepts_app.command(epilog="Example: triptych concept export my-boat my-boat.json")
def export(
    name: NameArgument,
    out: Annotated[Path, typer.Argument(help="The file to write, JSON.")],
    index: IndexFlag = None,
) -> None:
    """Write a concept to a file, for another index of the same model. The names of its examples go along."""
    from retrieval.query.concepts.concept import export as write

    write(_loaded(name, index), out)
    say(printable(f"wrote {out}"))


@concepts_app.command("import", epilog="Example: triptych concept import my-boat.json")
def import_concept(
    file: Annotated[Path, typer.Argument(help="A file that `triptych concept export` wrote.")],
    index: IndexFlag = None,
    replace: ReplaceFlag = False,
) -> None:
    """Take a concept from a file into the index."""
    from retrieval.query.concepts.concept import import_, save

    concept = import_(file)
    save(chosen_index(index, load_settings()), concept, over=replace)
    say(f"search it: triptych search concept:{concept.name}")


def _teach(
    place: Path,
    name: str,
    yes: Sequence[str],
    no: Sequence[str],
    *,
    model: str | None,
    over: bool,
    as_json: bool = False,
) -> None:
    """Learn and keep a concept, and say what it is like."""
    from retrieval.query.concepts.concept import check_free, save
    from retrieval.query.concepts.learning import learn as learned
    from retrieval.query.searcher import Searcher

    check_free(place, name, over=over)
    threads = load_settings().threads
    with Searcher.open(place, model=model, threads=threads, on_build=say_build) as searcher:
        concept = learned(searcher.snapshot, searcher.model, name, yes, no)
    save(place, concept, over=over)
    if as_json:
        print_json(concept_json(concept))
    else:
        for line in concept_lines(concept):
            say(line)
    if weak := weak_line(concept):
        say(weak)
    if not as_json:
        say(f"search it: triptych search concept:{name}")


def _loaded(name: str, index: Path | None) -> Concept:
    from indexer.snapshot import Snapshot
    from retrieval.query.concepts.concept import load

    with Snapshot.open(chosen_index(index, load_settings())) as snapshot:
        return load(snapshot, name)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _ask() -> str:
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()


def concept_lines(concept: Concept) -> list[str]:
    """A concept for a person."""
    examples = [
        printable(
            f"  {'yes' if one.good else 'no '}  {one.name}{'' if one.indexed else '  (not in the index)'}"
        )
        for one in concept.examples
    ]
    against = f"against {concept.others} others of the collection" if concept.others else "without others"
    of_each = concept.measured_of if len(concept.measured_of) > 1 else {}
    return [
        f"{concept.name}  {kinds_of(concept)}, {concept.yes} good, {concept.no} bad, {against}",
        measured_line(concept.measured),
        *(f"  {modality}: {measured_line(one)}" for modality, one in of_each.items()),
        *examples,
    ]


def kinds_of(concept: Concept) -> str:
    """The modalities of the good examples, that of most of them first."""
    kinds = [one.modality for one in concept.examples if one.good]
    others = [one for one in dict.fromkeys(kinds) if one is not concept.modality]
    return " and ".join([concept.modality, *others])


def weak_line(concept: Concept) -> str | None:
    """A warning where no example, or none of a modality, was found by the others; None where some were."""
    if concept.measured is not None and not concept.measured.yes_found:
        kinds, advice = "", "its order may be good, its probabilities are low; more examples help"
    else:
        missed = [modality for modality, one in concept.measured_of.items() if not one.yes_found]
        if not missed:
            return None
        kinds, advice = f"{' or '.join(missed)} ", "give more of that kind, or learn a concept of it alone"
    return (
        f"warning: no {kinds}example would be taken for {concept.name}, at a probability of one half, by what"
        f" the others have in common; {advice}"
    )


def short_line(measured: Measured | None) -> str:
    """The beginning of `measured_line`, for a list of concepts."""
    if measured is None:
        return "not measured"
    return f"found {measured.yes_found} of {measured.yes} good ones that were left out"


def measured_line(measured: Measured | None) -> str:
    """What cross-validation told, in words."""
    if measured is None:
        return "not measured: that takes two good examples"
    recall, low, high = measured.recall
    text = f"{short_line(measured)} (recall {recall:.2f}, 95 % interval {low:.2f}-{high:.2f})"
    if measured.no:
        text += f", {measured.no_found} of {measured.no} bad ones"
    if measured.others:
        text += f", {measured.others_found} of {measured.others} others, which may be good too"
    if measured.yes_found:
        precision, low, high = measured.precision
        at_least = "at least " if measured.others_found else ""
        text += f" (precision {at_least}{precision:.2f}, {low:.2f}-{high:.2f})"
    return text


def concept_json(concept: Concept) -> dict[str, Any]:
    """A concept for a program, without its vector."""
    from dataclasses import asdict

    measured = concept.measured
    return {
        "name": concept.name,
        "modality": concept.modality,
        "model": concept.model,
        "space_id": concept.space_id,
        "yes": concept.yes,
        "no": concept.no,
        "others": concept.others,
        "measured": None if measured is None else _measured_json(measured),
        "measured_of": {modality: _measured_json(one) for modality, one in concept.measured_of.items()},
        "examples": [asdict(one) for one in concept.examples],
    }


def _measured_json(measured: Measured) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(measured) | {"recall": measured.recall, "precision": measured.precision}
