"""How large the numbers are that an aggregate adds up: two orders of addition differ by a small part of it (DESIGN invariant I5)."""

from __future__ import annotations

from flows.sql.tree import Node, expression_text

# the answer is one of the values, or between two, or a count: nothing is added up
_OF_VALUES = """
count count_star count_if countif regr_count min max bool_and bool_or bit_and bit_or bit_xor median quantile quantile_cont quantile_disc mad
arg_min arg_max argmin argmax min_by max_by arg_min_null arg_max_null first last any_value arbitrary
"""
_EXACT = frozenset(_OF_VALUES.split())
_SUMS = frozenset({"sum", "sum_no_overflow", "fsum", "sumkahan", "kahan_sum"})
_MEANS = frozenset({"avg", "mean", "favg"})
_BITS = 64  # more than the entropy of any group


def size_sql(call: Node) -> str:
    """SQL over the rows of a group: sum(|x|) of a sum, sum(|x|)/n of a mean, 0 of what is one of the values, and of the others, such as
    variances, sum(|x| + x * x) of all arguments.
    """
    name = str(call["function_name"]).lower()
    if name in _EXACT:
        return "0"
    if name == "entropy":
        return str(_BITS)
    only = f" FILTER (WHERE {expression_text(call['filter'])})" if call["filter"] is not None else ""
    numbers = [f"TRY_CAST({expression_text({**child, 'alias': ''})} AS DOUBLE)" for child in call["children"]]
    if name in _SUMS or name in _MEANS:
        return f"coalesce({'sum' if name in _SUMS else 'avg'}(abs({numbers[0]})){only}, 0)"
    return " + ".join(f"coalesce(sum(abs({number}) + {number} * {number}){only}, 0)" for number in numbers) or "0"
