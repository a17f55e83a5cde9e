"""Aggregate functions of summaries: which are allowed, and what makes those deterministic whose answer depends on the order of rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from flows.sql.tree import Node, column, walk

# The answer depends on the set of rows alone (of DOUBLE values: but for the last bits of sums).
_OF_SETS = """
count count_star count_if countif sum sum_no_overflow fsum sumkahan kahan_sum avg mean favg min max bool_and bool_or bit_and bit_or bit_xor
product var_samp var_pop variance stddev stddev_samp stddev_pop covar_samp covar_pop corr regr_avgx regr_avgy regr_count regr_intercept
regr_r2 regr_slope regr_sxx regr_sxy regr_syy skewness kurtosis kurtosis_pop sem entropy median quantile quantile_cont quantile_disc mad
"""
# Of rows that are equal to it, the first counts; or all count, in order.
_OF_LISTS = """
arg_min arg_max argmin argmax min_by max_by arg_min_null arg_max_null first last any_value arbitrary list array_agg string_agg
group_concat listagg
"""
ALLOWED = frozenset(f"{_OF_SETS} {_OF_LISTS}".split())
_ORDERED = frozenset(_OF_LISTS.split())


def is_aggregate(node: Node) -> bool:
    """Whether a node of the parse tree is a call of one of these functions."""
    return node.get("class") == "FUNCTION" and str(node["function_name"]).lower() in ALLOWED


def with_order(tree: Node, place: Sequence[str]) -> Node:
    """A copy in which the aggregates that depend on the order of rows see them by ``place``, the columns of a row's position in the log:
    after an order of their own, and after the argument where it is DISTINCT.
    """
    ordered = copy.deepcopy(tree)
    for node in walk(ordered):
        if is_aggregate(node) and str(node["function_name"]).lower() in _ORDERED:
            columns = node["children"][:1] if node["distinct"] else [column(name) for name in place]
            orders = [{"type": "ORDER_DEFAULT", "null_order": "ORDER_DEFAULT", "expression": copy.deepcopy(each)} for each in columns]
            node["order_bys"]["orders"] += orders
    return ordered
