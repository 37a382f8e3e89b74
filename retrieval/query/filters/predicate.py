"""What may stand in a filter: one scalar expression over known columns, and nothing else.

DuckDB's own parser reads the very text that will run; what it read is walked node by node, and whatever is
not on a list is refused. So a statement, a subquery, a file or a setting cannot be reached, whatever way
they are written. Nothing is run here but the parser.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.errors import QueryError
from retrieval.query.filters.columns import BY_NAME, nearest
from retrieval.query.filters.functions import FUNCTIONS, JOINING, NAMES, TYPES

LONGEST = 20_000  # characters of a predicate
LONGEST_TEXT = 4096  # characters of one text in it, as long as a path may be
DEEPEST = 100  # levels of nesting that the parser takes
JOINED = 32  # texts that a predicate may put together: what they give is held for thousands of rows at a time
SCHEMA_HINT = "`triptych schema` lists the columns, docs/filters.md what can be done with them"

OPERATORS = frozenset(
    {
        "OPERATOR_NOT",
        "OPERATOR_IS_NULL",
        "OPERATOR_IS_NOT_NULL",
        "OPERATOR_COALESCE",
        "OPERATOR_NULLIF",
        "OPERATOR_TRY",
        "COMPARE_IN",
        "COMPARE_NOT_IN",
        "ARRAY_EXTRACT",
        "ARRAY_SLICE",
    }
)
VALUES = frozenset({"current_date", "current_timestamp"})  # they look like columns to the parser
PLAIN = frozenset(
    {"CONSTANT", "COMPARISON", "CONJUNCTION", "CASE", "BETWEEN"}
)  # and allow all that is in them
REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
    "COLLATE": "a collation",
    "POSITIONAL_REFERENCE": "a column by its number",
    "DEFAULT": "DEFAULT",
}
_PLACES = re.compile(r'"query_location(?:_length)?":\d+,?')
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """A predicate that may run."""

    sql: str  # the whole query, over a table `pairs` with a column `place`; gives `place` and `matches`
    columns: tuple[str, ...]  # that it names, in the table's order


def checked(connection: Any, predicate: str) -> Checked:
    """The query for a predicate, read by `connection`'s parser. QueryError for what is not one expression.

    Two readings must agree: the predicate as all there is, so that it is one expression by itself, and the
    text that runs, so that nothing of what stands around it means something else.
    """
    _check_text(predicate)
    alone = _select(_parsed(connection, f"SELECT {predicate}\n"), predicate)
    if len(alone["select_list"]) != 1 or alone["select_list"][0].get("alias") or not _bare(alone, "EMPTY"):
        raise _not_one(predicate)
    sql = f"SELECT place, ({predicate}\n) AS matches FROM pairs"
    whole = _select(_parsed(connection, sql), predicate)
    items = whole["select_list"]
    if len(items) != 2 or not _bare(whole, "BASE_TABLE") or items[1].pop("alias") != "matches":
        raise _not_one(predicate)
    items[1]["alias"] = ""
    if _text(items[1]) != _text(alone["select_list"][0]):
        raise _not_one(predicate)
    found = set(_check_nodes(items[1]))
    return Checked(sql, tuple(name for name in BY_NAME if name in found))


def _check_text(predicate: str) -> None:
    if not predicate.strip():
        raise QueryError("the filter is empty", hint=f"give a condition: width >= 1000; {SCHEMA_HINT}")
    if len(predicate) > LONGEST:
        raise QueryError(
            f"the filter has {len(predicate)} characters, at most {LONGEST} are taken", hint="make it shorter"
        )
    try:
        predicate.encode()
    except UnicodeEncodeError:
        raise QueryError(
            "the filter is not valid Unicode", hint="write such a name with like and %"
        ) from None
    if _CONTROL.search(predicate):
        raise QueryError("the filter holds control characters", hint="leave them out")


def _parsed(connection: Any, sql: str) -> Node:
    """What the parser makes of a query. QueryError where it is not SQL, or no SELECT."""
    try:
        rows = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        read: Node = json.loads(rows[0][0])
    except RecursionError:
        raise QueryError("the filter is nested too deeply", hint="make it simpler") from None
    if read["error"]:
        message = str(read.get("error_message", "")).strip()
        if "depth limit" in message:
            raise QueryError(f"the filter is nested more than {DEEPEST} levels deep", hint="make it simpler")
        first = message.splitlines()[0] if message else "it cannot be read"
        raise QueryError(
            f"the filter is no condition in SQL: {first}",
            hint="one condition is wanted, like: width >= 1000 and path like '%/Holiday/%'",
        )
    return read


def _select(read: Node, predicate: str) -> Node:
    """The only statement, a plain SELECT. QueryError where there is more, or something else."""
    statements = read["statements"]
    if len(statements) != 1 or statements[0].get("named_param_map"):
        raise _not_one(predicate)
    node: Node = statements[0]["node"]
    if node["type"] != "SELECT_NODE":
        raise _not_one(predicate)
    return node


def _bare(node: Node, table: str) -> bool:
    """Whether a SELECT has nothing but its list, and the table that is expected."""
    clauses = ("where_clause", "having", "sample", "qualify", "group_expressions", "group_sets", "modifiers")
    source = node["from_table"]
    return (
        not any(node.get(name) for name in clauses)
        and not (node.get("cte_map") or {}).get("map")
        and node.get("aggregate_handling") == "STANDARD_HANDLING"
        and source["type"] == table
        and not source.get("sample")
        and (table == "EMPTY" or (source.get("table_name") == "pairs" and not source.get("schema_name")))
    )


def _not_one(predicate: str) -> QueryError:
    shown = predicate if len(predicate) <= 60 else predicate[:57] + "..."
    return QueryError(
        f"the filter {shown!r} is more than one condition",
        hint="give one condition and nothing around it; `and` and `or` join several",
    )


def _text(node: Node) -> str:
    """A node in a form that does not say where it stood."""
    return _PLACES.sub("", json.dumps(node, separators=(",", ":"), sort_keys=True)).replace(",}", "}")


def _check_nodes(root: Node) -> Iterator[str]:
    """The columns that an expression names. QueryError at the first node that is not allowed."""
    waiting: list[Any] = [root]
    joined = 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        if "class" in node:
            yield from _check_node(node)
            if node.get("function_name", "").lower() in JOINING:
                joined += len(_arguments(node))
        elif "node" in node or str(node.get("type", "")).endswith("_NODE"):
            raise _refused("a subquery")
        waiting += [value for value in node.values() if isinstance(value, dict | list)]
    if joined > JOINED:
        raise QueryError(
            f"the filter puts {joined} texts together, at most {JOINED} are taken", hint="make it simpler"
        )


def _check_node(node: Node) -> Iterator[str]:
    """The column that a node is, if it is one."""
    kind = node["class"]
    if node.get("alias"):
        raise _refused(f"a name for a value ({node['alias']})")
    if kind == "COLUMN_REF":
        yield from _column(node["column_names"])
    elif kind == "FUNCTION":
        _check_function(node)
    elif kind == "OPERATOR" and node["type"] not in OPERATORS:
        raise _refused(node["type"].lower().replace("_", " "))
    elif kind == "TYPE":
        _check_type(node)
    elif kind == "CONSTANT" and len(node["literal"]["text"]) > LONGEST_TEXT:
        raise _refused(f"a text of more than {LONGEST_TEXT} characters")
    elif kind not in PLAIN | {"OPERATOR", "CAST"}:
        raise _refused(REFUSED.get(kind, kind.lower().replace("_", " ")))


def _column(names: Sequence[str]) -> Iterator[str]:
    name = names[0].lower()
    if len(names) > 1:
        hint = f"write metadata['{names[-1]}']" if name == "metadata" else "a column's name stands alone"
        raise QueryError(f"the filter names {'.'.join(names)}, which is no column", hint=hint)
    if name in VALUES:
        return
    if name not in BY_NAME:
        close = nearest(name)
        hint = f"did you mean {close}? {SCHEMA_HINT}" if close else SCHEMA_HINT
        raise QueryError(f"there is no column {names[0]!r}", hint=hint)
    yield name


def _check_function(node: Node) -> None:
    name = node["function_name"].lower()
    if node.get("schema") or node.get("catalog") or name not in FUNCTIONS:
        called = ".".join(part for part in (node.get("catalog"), node.get("schema"), name) if part)
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}? " if close and close[0] != name else ""
        raise QueryError(
            f"a filter cannot call {called}", hint=hint + "docs/filters.md lists what it can call"
        )
    arguments = _arguments(node)
    special = node.get("filter") or node.get("distinct") or node.get("export_state")
    if special or (node.get("order_bys") or {}).get("orders") or any(one.get("name") for one in arguments):
        raise _refused(f"{name} with anything but plain values")
    if name == "list_value" and not all(_literal(one["expression"]) for one in arguments):
        raise _refused("a list of anything but plain values")


def _arguments(node: Node) -> list[Node]:
    found: list[Node] = node["arguments"]
    return found


def _literal(node: Node) -> bool:
    """Whether a node is a value as it is written, a date or a negative number included."""
    if node["class"] == "CAST":
        return _literal(node["child"])
    if node["class"] == "FUNCTION" and node["function_name"] == "-":
        return all(_literal(one["expression"]) for one in _arguments(node))
    return bool(node["class"] == "CONSTANT")


def _check_type(node: Node) -> None:
    name = str(node.get("type_name", "")).lower()
    if name not in TYPES or node.get("schema") or node.get("catalog"):
        raise _refused(f"a conversion to {name or 'an unnamed type'}")


def _refused(what: str) -> QueryError:
    return QueryError(f"the filter holds {what}, which it must not", hint=SCHEMA_HINT)
