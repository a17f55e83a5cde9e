"""Functions that may stand in row-local SQL: their result depends on their arguments alone.

The list is explicit, because DuckDB's own marks do not tell (measured on 1.5.5: ``current_setting``, ``row_number`` and ``getvariable``
count as consistent, ``now()`` does not show in a plan). Time-zone dependent functions are allowed: every connection runs in UTC.
"""

from __future__ import annotations

import duckdb

from flows.sql.bind import near
from flows.sql.tree import Node, Problem

_OPERATORS = "+ - * / // % ** ^ & | << >> ~ || ~~ !~~ ~~* !~~* ~~~ ^@ @ !__postfix <@ @> && ->> <-> <=>"

_CONDITIONS = """
coalesce nullif ifnull if greatest least xor isnan isfinite isinf like_escape not_like_escape ilike_escape not_ilike_escape typeof
"""

_NUMBERS = """
abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp factorial fdiv floor fmod
gamma gcd greatest_common_divisor get_bit set_bit lcm least_common_multiple lgamma ln log log10 log2 mod multiply nextafter pi pow power
radians round round_even roundbankers sign signbit sin sinh sqrt subtract tan tanh trunc
"""

_TEXT = """
array_to_string array_to_string_comma_default ascii bar bin bit_length chr char_length character_length concat concat_ws contains
damerau_levenshtein editdist3 ends_with format format_bytes formatreadablesize formatreadabledecimalsize from_base64 from_binary from_hex
hamming hash hex instr jaccard jaro_similarity jaro_winkler_similarity lcase left left_grapheme len length length_grapheme levenshtein
lower lpad ltrim md5 md5_number md5_number_lower md5_number_upper mismatches nfc_normalize octet_length ord parse_dirname parse_dirpath
parse_filename parse_formatted_bytes parse_path position prefix printf regexp_escape regexp_extract regexp_extract_all regexp_full_match
regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right right_grapheme rpad rtrim sha1 sha256 split split_part
starts_with str_split str_split_regex string_split string_split_regex string_to_array strip_accents strlen strpos substr substring
substring_grapheme suffix to_base to_base64 base64 to_binary to_hex translate trim ucase unbin unhex unicode upper url_decode url_encode
encode decode overlay
"""

_TIMES = """
age century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear
days_in_month decade epoch epoch_ms epoch_ns epoch_us era hour isodow isoyear julian last_day make_date make_time make_timestamp
make_timestamp_ms make_timestamp_ns make_timestamptz microsecond millennium millisecond minute month monthname nanosecond
normalized_interval quarter second strftime strptime time_bucket timezone timezone_hour timezone_minute to_centuries to_days to_decades
to_hours to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years
try_strptime week weekday weekofyear year yearweek
"""

_NESTED = """
apply array_append array_apply array_cat array_concat array_contains array_cosine_distance array_cosine_similarity array_cross_product
array_distance array_distinct array_dot_product array_extract array_filter array_grade_up array_has array_has_all array_has_any
array_indexof array_inner_product array_intersect array_length array_negative_dot_product array_negative_inner_product array_pop_back
array_pop_front array_position array_prepend array_push_back array_push_front array_reduce array_resize array_reverse array_reverse_sort
array_select array_slice array_sort array_transform array_unique array_value array_where array_zip cardinality element_at
equi_width_bins filter flatten generate_series grade_up list_any_value list_append list_apply list_approx_count_distinct list_avg
list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or list_cat list_concat list_contains list_cosine_distance
list_cosine_similarity list_count list_distance list_distinct list_dot_product list_element list_entropy list_extract list_filter
list_first list_grade_up list_has list_has_all list_has_any list_histogram list_indexof list_inner_product list_intersect list_kurtosis
list_kurtosis_pop list_last list_mad list_max list_median list_min list_mode list_negative_dot_product list_negative_inner_product
list_pack list_position list_prepend list_product list_reduce list_resize list_reverse list_reverse_sort list_select list_sem
list_skewness list_slice list_sort list_stddev_pop list_stddev_samp list_string_agg list_sum list_transform list_unique list_value
list_var_pop list_var_samp list_where list_zip map map_concat map_contains map_contains_entry map_contains_value map_entries map_extract
map_extract_value map_from_entries map_keys map_values range reduce row struct_concat struct_contains struct_extract struct_extract_at
struct_has struct_indexof struct_insert struct_keys struct_pack struct_position struct_update struct_values unnest
"""

_JSON = """
array_to_json from_json from_json_strict json json_array json_array_length json_contains json_exists json_extract json_extract_path
json_extract_path_text json_extract_string json_keys json_merge_patch json_object json_pretty json_quote json_structure json_transform
json_transform_strict json_type json_valid json_value row_to_json to_json
"""


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


ROW_LOCAL = _names(" ".join([_OPERATORS, _CONDITIONS, _NUMBERS, _TEXT, _TIMES, _NESTED, _JSON]))

# Table functions that read nothing but their arguments: a view may use these and no other.
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row"})

_CLOCK = 'the time in the record, or _timestamp, the record\'s time in the log; in a view (kind = "view") the clock is allowed'
_CLOCKS = _names(
    """now today ago current_date current_time current_timestamp current_localtime current_localtimestamp localtime localtimestamp
    get_current_time get_current_timestamp transaction_timestamp"""
)
_CHANCE = _names("random uuid gen_random_uuid uuidv4 uuidv7 setseed")
_LIST_AGGREGATES = _names("aggregate list_aggr list_aggregate array_aggr array_aggregate")
_SESSION = _names(
    """current_setting getvariable nextval currval current_user current_role user session_user current_schema current_schemas
    current_database current_catalog current_query txid_current version rowid"""
)


def refusal(name: str) -> tuple[str, str] | None:
    """(cause, fix) of a name whose value does not come from the row; None when nothing is known about it."""
    if name in _CLOCKS:
        return f"{name} depends on the clock: a replay would give other rows", _CLOCK
    if name in _CHANCE:
        return f"{name} depends on chance: a replay would give other rows", "a hash of the key, such as md5(concat_ws('|', a, b))"
    if name in _LIST_AGGREGATES:
        return f"{name} takes any aggregate's name, also ones that are not deterministic", "list_sum, list_avg, list_min, ..."
    if name in _SESSION:
        return f"{name} depends on the session: a replay would give other rows", "a constant, or a column of the record"
    return None


def check_function(node: Node, line: int, catalogue: duckdb.DuckDBPyConnection) -> Problem | None:
    """Whether a FUNCTION node of the parse tree may stand in row-local SQL."""
    name = str(node["function_name"]).lower()
    if name == "age" and len(node["children"]) != 2:
        return Problem(line, "age with one argument depends on the clock: a replay would give other rows", "age(later, earlier)")
    if name in ROW_LOCAL and node["schema"] in ("", "main"):
        return None
    known = refusal(name)
    if known is None:
        types = catalogue.execute("SELECT DISTINCT function_type FROM duckdb_functions() WHERE function_name = ?", [name]).fetchall()
        known = _by_type(name, {kind for (kind,) in types})
    return Problem(line, *known)


def _by_type(name: str, types: set[str]) -> tuple[str, str]:
    if "aggregate" in types:
        return (
            f"{name} combines rows: an append table sees one record at a time",
            'kind = "view" for aggregates; list_sum and the like on a list',
        )
    if not types:
        return f"there is no function {name}", near(name, sorted(ROW_LOCAL), "a function of docs/tables.md")
    if types & {"table", "table_macro"}:
        return f"{name} reads something other than the record", "a source for that data, and a view that joins the two"
    return f"{name} is not on the list of row-local functions", "a function of docs/tables.md, or a view"
