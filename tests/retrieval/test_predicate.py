"""Filters: what may be said in one, and that nothing else gets through, however it is written."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from indexer.errors import QueryError
from retrieval.query.filters import columns, functions
from retrieval.query.filters.predicate import DEEPEST, FUNCTIONS, LONGEST, checked
from retrieval.query.filters.where import Limits, _connection, predicate_of

DOCS = Path(__file__).parent.parent.parent / "docs" / "filters.md"


@pytest.fixture(scope="module")
def parser() -> Iterator[Any]:
    with _connection(Limits()) as connection:
        yield connection


@pytest.mark.parametrize(
    ("predicate", "names"),
    [
        ("width >= 1000 and year(taken_at) = 2024 and path like '%/x/%'", {"width", "taken_at", "path"}),
        ("Width > 3 OR HEIGHT < 2", {"width", "height"}),
        ("`width` > 1", {"width"}),
        ("not (label = 'a' or label is null)", {"label"}),
        ("ext in ('jpg', 'png') and size between 1 and 1e6", {"ext", "size"}),
        ("label in ['a', 'b']", {"label"}),
        ("metadata['author'] = 'x' and map_contains(metadata, 'y')", {"metadata"}),
        ("taken_at > now() - interval 3 days", {"taken_at"}),
        ("modified >= date '2024-01-01' and modified < current_date", {"modified"}),
        ("cast(metadata['n'] as integer) > 3 and try_cast(name as double) is null", {"metadata", "name"}),
        ("year::varchar || ext similar to '20..jpg'", {"year", "ext"}),
        ("case when kind = 'audio' then duration > 3 else width > 9 end", {"kind", "duration", "width"}),
        ("coalesce(taken_at, modified) > '2024-01-01'", {"taken_at", "modified"}),
        ("name ilike 'img%' and not text ~ 'a+' and folder glob '/a*'", {"name", "text", "folder"}),
        ("extract(day from taken_at) = 5 and title is distinct from artist", {"taken_at", "title", "artist"}),
        ("\"start\" + \"end_at\" > 2 -- a remark", {"start", "end_at"}),
        ("position('a' in lower(name)) > 0 and substring(name from 1 for 2) = 'ab'", {"name"}),
        ("true", set()),
        ("caption = 'it''s; select 1 -- not'", {"caption"}),
    ],
)  # fmt: skip
def test_conditions_are_taken_and_their_columns_known(parser: Any, predicate: str, names: set[str]) -> None:
    assert set(checked(parser, predicate).columns) == names


PIECES = [
    *"(),;'\"*.1=x[]{",
    *("--", "/*", "*/", "$$", "::", "select", "from", "where", "union", "true", "width", "and", "not", "as"),
]
ATTEMPTS = """
1) union select (true
true) from pairs; select (true
true); drop table pairs; select (true
true); attach '/tmp/x.db'; select (true
true) from read_csv('/etc/passwd') --
true) from '/etc/passwd' --
true) from '/etc/passwd' /*
true) where (true
true) limit (1
true) order by (1
true) group by (1
true) having (true
true) qualify (true
true) window w as (order by 1
true) as a, (true
true) using sample (1
true, true
true as x
true x
x: true
distinct true
all true
true from pairs
true where true
true limit 1
true;
;
true; select 1
true; copy pairs to '/tmp/out'
select true
with a as (select 1) select true
from pairs
values (true)
table pairs
exists(select 1)
width in (select 1)
width = (select 1)
(select true)
(from pairs select true)
(values (true))
width = any(select 1)
width = any([1, 2])
width = all([1, 2])
array(select 1) is null
exists(from '/etc/passwd')
exists(from read_csv('/etc/passwd'))
exists(select * from duckdb_settings())
(select count(*) from glob('/*')) > 0
read_csv('/etc/passwd') is null
read_text('/etc/passwd') = ''
read_blob('/etc/passwd') is null
glob('/*') is null
getenv('HOME') = 'x'
current_setting('threads') = 'x'
set_config('threads', '3', false)
getvariable('x') = 1
current_user = 'x'
session_user is null
user is null
current_schema() = 'main'
current_query() = ''
version() = ''
nextval('x') > 0
random() > 0.5
uuid() is null
sleep(10)
sleep_ms(10)
pragma version
pragma_version() is null
pragma_table_info('pairs') is null
attach 'x' as y
copy pairs to 'x'
install httpfs
load httpfs
load '/tmp/x.so'
call pragma_version()
set threads = 8
export database 'x'
import database 'x'
create table x as select 1
insert into pairs values (1)
update pairs set place = 1
delete from pairs
checkpoint
vacuum
explain select 1
describe pairs
show tables
summarize pairs
prepare x as select 1
execute x
$1 = 2
? = 2
$name = 2
:name = 2
#1 = 1
*
pairs.*
* exclude (width)
columns('.*') is null
columns(*) > 1
columns(c -> c like 'w%') > 1
count(*) > 1
sum(width) > 1
max(width) filter (where true) > 1
first(width) > 1
list(width) is null
row_number() over () = 1
lag(width) over (order by size) > 1
sum(width) over () > 1
list_filter([1], x -> x > 0) is null
list_transform([1], lambda x: x) is null
[x for x in [1, 2]] is null
x -> true
lambda x: true
unnest([1]) = 1
generate_series(1, 1000000000) is null
range(1000000000) is null
repeat('a', 1000000000) = 'b'
lpad(name, 1000000000, 'x') = ''
rpad(name, 1000000000, 'x') = ''
replace(name, 'a', 'aaaa') = ''
regexp_replace(name, '', 'aaaa', 'g') = ''
hex(name) = ''
to_base64(name::blob) = ''
url_encode(name) = ''
format('{:1000000000}', width) = ''
printf('%1000000000d', width) = ''
string_split(name, '') is null
array_to_string([name], 'x') = ''
levenshtein(text, text) > 1
10! > 1
factorial(1000) > 1
md5(name) = ''
hash(name) = 1
json_extract(name, '$') is null
json_serialize_sql('select 1') is null
json_execute_serialized_sql('x')
metadata->>'a' = 'b'
write_log('x') is null
error('x')
nonsense(width) > 1
main.lower(name) = ''
system.main.lower(name) = ''
pg_catalog.current_database() = ''
name.lower() = ''
lower(name order by name) = ''
lower(distinct name) = ''
struct_pack(a := 1) is null
{'a': 1} is null
row(1, 2) = row(1, 2)
(1, 2) = (1, 2)
map {'a': name} is null
[name] is null
[[1]] is null
name collate nocase = 'a'
name::blob is null
name::json is null
name::int[] is null
name::struct(a int) is null
name::map(int, int) is null
name::mood is null
name::uuid is null
name::bit is null
cast(cast(name as varchar) as regclass) is null
cast(cast(cast('x' as blob) as varchar) as blob) is null
grouping(width) = 1
default
grouping_id(width) = 1
pairs.width > 1
memory.main.pairs.width > 1
metadata.author = 'x'
rowid = 1
place = 1
matches
given
current_catalog = 'x'
localtimestamp > modified
"width" "x"
"no such ""column" = 1
widht > 1
\uff08select 1\uff09
width\u037e select 1
\u201cwidth\u201d > 1
width > 1 /*
width > 1 /* */ */
/* ) */ ) , ( /* */ true
a) + (b
width) > (1
) or (
(
)
'
"
$$
e'\\'
width >
and
""".strip().splitlines()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_whatever_is_no_condition_is_refused(parser: Any, attempt: str) -> None:
    attempt = attempt.replace("\\uff08", "\uff08").replace("\\uff09", "\uff09")
    attempt = attempt.replace("\\u037e", "\u037e").replace("\\u201c", "\u201c").replace("\\u201d", "\u201d")
    with pytest.raises(QueryError) as refused:
        checked(parser, attempt)
    assert refused.value.hint
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("attempt", ["", " \n", "true\0; drop x", "\x1b[2J", "name = '\udc80'", "true\0"])
def test_texts_that_are_none_are_refused(parser: Any, attempt: str) -> None:
    with pytest.raises(QueryError):
        checked(parser, attempt)


@pytest.mark.parametrize(
    "attempt",
    [
        "(" * 5000 + "true" + ")" * 5000,
        "not " * 4000 + "true",
        "not " * (DEEPEST + 1) + "true",
        "+".join(["width"] * 3000) + " > 1",
        "width::int" + "::bigint" * 1000 + " > 1",
        "lower(" * 3000 + "name" + ")" * 3000 + " = 'a'",
        "case when true then " * 800 + "true" + " end" * 800,
        "true or " * 130_000 + "true",
        "name = '" + "a" * 1_000_000 + "'",
        "name = '" + "a" * 5000 + "'",
        "text = " + "||".join(["text"] * 90),
        "concat(" + ",".join(["text"] * 2000) + ") = ''",
    ],
)
def test_long_and_deep_ones_are_refused_at_once(parser: Any, attempt: str) -> None:
    with pytest.raises(QueryError, match=r"deep|characters|together|no condition"):
        checked(parser, attempt)


def test_long_but_flat_ones_are_taken(parser: Any) -> None:
    names = ", ".join(f"'{number}'" for number in range(1500))
    assert checked(parser, f"name in ({names})").columns == ("name",)
    assert checked(parser, " or ".join(["width = 1"] * 1500)).columns == ("width",)
    assert len(f"name in ({names})") < LONGEST


def test_what_is_put_together_at_random_is_a_condition_or_an_error(parser: Any) -> None:
    """Each that gets through must also be the only item of the query that runs."""
    rng = random.Random(5)
    taken = 0
    for _ in range(800):
        attempt = " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, 7)))
        try:
            sql = checked(parser, attempt).sql
        except QueryError:
            continue
        taken += 1
        (statement,) = duckdb.extract_statements(sql)
        assert statement.type == duckdb.StatementType.SELECT
    assert taken > 10


def test_an_unknown_column_names_the_nearest(parser: Any) -> None:
    with pytest.raises(QueryError, match="no column 'widht'") as refused:
        checked(parser, "widht > 3")
    assert "did you mean width?" in (refused.value.hint or "")
    with pytest.raises(QueryError) as refused:
        checked(parser, "metadata.author = 'x'")
    assert "metadata['author']" in (refused.value.hint or "")
    with pytest.raises(QueryError, match="cannot call lowr") as refused:
        checked(parser, "lowr(name) = 'x'")
    assert "lower" in (refused.value.hint or "")


def test_every_function_that_is_allowed_is_a_scalar_one_that_exists() -> None:
    with duckdb.connect(":memory:") as connection:
        asked = "SELECT function_name, function_type, has_side_effects FROM duckdb_functions()"
        rows = connection.execute(asked).fetchall()
    scalar = {name for name, kind, _ in rows if kind in ("scalar", "macro")}
    other = {name for name, kind, _ in rows if kind not in ("scalar", "macro")}
    made_by_the_parser = {"if", "ifnull", "coalesce", "position"}
    assert set(functions.NAMES) - scalar <= made_by_the_parser
    assert not set(functions.NAMES) & (other - scalar)
    assert not {name for name, _, effects in rows if effects and name in FUNCTIONS}


# Short forms


def test_short_forms_become_one_predicate(parser: Any) -> None:
    predicate = predicate_of(
        where="width > 1 or height > 1 -- big",
        under="/media/It's",
        types=["jpg", ".PNG", "audio"],
        since="2024",
        before=date(2025, 2, 3),
        labels=["Bird's", "cat"],
    )
    assert predicate is not None
    assert set(checked(parser, predicate).columns) == {
        *("width", "height", "path", "ext", "kind", "taken_at", "modified", "label"),
    }
    assert "'jpeg'" in predicate
    assert "TIMESTAMP '2024-01-01 00:00:00'" in predicate
    assert "TIMESTAMP '2025-02-03'" in predicate


def test_nothing_asked_is_no_predicate() -> None:
    assert predicate_of() is None
    assert predicate_of(where="width > 1") == "width > 1"


@pytest.mark.parametrize(
    "where", ["true) or (true", "true) -- ", "true /*", "1) union select (2", "true;", ""]
)
def test_a_where_cannot_reach_into_its_neighbours(where: str) -> None:
    with pytest.raises(QueryError):
        predicate_of(where=where, labels=["secret"])


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2024", "2024-01-01 00:00:00"),
        ("2024-5", "2024-05-01 00:00:00"),
        ("2024-05-09", "2024-05-09 00:00:00"),
        ("2024-05-09T18:30", "2024-05-09 18:30:00"),
        (datetime(2024, 5, 9, 18), "2024-05-09 18:00:00"),
    ],
)
def test_days_and_moments(given: str | date, moment: str) -> None:
    assert predicate_of(since=given) == f"coalesce(taken_at, modified) >= TIMESTAMP '{moment}'"


@pytest.mark.parametrize("given", ["yesterday", "2024-13", "", "' or true --", "05/09/2024"])
def test_what_is_no_day_is_refused(given: str) -> None:
    with pytest.raises(QueryError, match=r"--before is .* no day"):
        predicate_of(before=given)


def test_a_type_of_nothing_is_refused() -> None:
    with pytest.raises(QueryError, match="--type"):
        predicate_of(types=[" ", "."])


# What is written about them


def test_the_page_lists_every_column_and_function() -> None:
    page = DOCS.read_text()
    assert columns.markdown() in page
    assert functions.markdown() in page


def test_a_short_form_loads_no_database() -> None:
    code = "from retrieval.query.filters.where import predicate_of; predicate_of(types=['jpg'])"
    code += "; import sys; print('duckdb' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
