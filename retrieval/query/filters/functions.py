"""What a filter may call and convert to: lists of names, by what they are for. Everything else is refused.

What makes a value larger by a factor (repeat, replace, lpad, range, hex ...) is left out: nested a few times
it fills any memory, and DuckDB's own limit does not see it. So is what compares each letter with each other,
and all that reads files, settings or the machine. Nothing is called here.
"""

from __future__ import annotations

OPERATIONS = (  # what the parser makes of + and LIKE; they are written as operators
    *("+", "-", "*", "/", "//", "%", "^", "**", "@", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "^@"),
    *("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape", "list_value"),
)
CALLED = {
    "numbers": "abs acos asin atan atan2 cbrt ceil ceiling cos degrees exp floor greatest isfinite isinf"
    " isnan least ln log log10 log2 mod pi pow power radians round sign sin sqrt tan trunc",
    "texts": "ascii chr concat concat_ws contains ends_with instr left len length lower ltrim nfc_normalize"
    " position prefix regexp_extract regexp_full_match regexp_matches reverse right rtrim split_part"
    " starts_with strip_accents strlen strpos substr substring suffix trim unicode upper",
    "times": "age century date_add date_diff date_part date_sub date_trunc datediff datepart datesub"
    " datetrunc day dayname dayofmonth dayofweek dayofyear decade epoch epoch_ms hour isodow isoyear"
    " last_day make_date make_timestamp millisecond minute month monthname now quarter second strftime"
    " strptime timezone to_centuries to_days to_decades to_hours to_milliseconds to_minutes to_months"
    " to_seconds to_timestamp to_weeks to_years today try_strptime week weekday weekofyear year yearweek",
    "nulls and maps": "cardinality coalesce element_at if ifnull list_contains map_contains map_extract"
    " map_keys map_values nullif",
}
_TYPES = (
    "bool boolean tinyint smallint int int1 int2 int4 int8 integer bigint hugeint utinyint usmallint uinteger"
    " ubigint float float4 float8 real double decimal numeric varchar text string char bpchar date time"
    " timestamp datetime timestamptz interval"
)
NAMES = frozenset(name for names in CALLED.values() for name in names.split())
FUNCTIONS = NAMES | frozenset(OPERATIONS)
TYPES = frozenset(_TYPES.split()) | {"timestamp with time zone", "double precision", "character varying"}
JOINING = frozenset({"||", "concat", "concat_ws"})  # what puts texts together


def markdown() -> str:
    """The functions as docs/filters.md lists them."""
    lines = ["| for | functions |", "|---|---|"]
    lines += [
        f"| {kind} | {', '.join(f'`{name}`' for name in names.split())} |" for kind, names in CALLED.items()
    ]
    return "\n".join(lines) + "\n"
