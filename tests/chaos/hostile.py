"""Names and values as somebody would send them who means harm, or has no idea."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SQL = (
    "'; DROP TABLE zart_tasks; --",
    "' OR '1'='1",
    "x'); DELETE FROM zart_executions; --",
    '"; SELECT pg_sleep(10); --',
    "`id` = `id`",
    "$1 :name ? %s %(name)s {name} {tasks}",
    "\\'; SELECT sleep(10) #",
    "/*!50000 DROP DATABASE zart */",
    "' UNION SELECT password FROM users --",
    "{1,2,NULL}",
    '{"a"}',
    "[1]",
    "NULL",
    "\\N",
    "\\",
    '"',
)
ODD = (
    *("", " ", "\t", "\n", "\x00", "a\x00b", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff"),
    *("\ud800", "a\udfffb", "\ud83d\ude00", "\U0001f422", "👩‍👩‍👧‍👦", "e\u0301", "\u00e9", "ﬃ"),
    *("\u202egnp.exe", "שלום", "مرحبا", "\u200b", "\u00a0x", "İ", "ß", "ǆ", "K"),
    *("../../etc/passwd", "%00", "<script>", "${jndi:ldap://x}", "x" * 199, "x" * 200, "x" * 201),
    *("亀" * 200, "👩" * 200, "é" * 150, "\U0010ffff", "\ufffe", "a" * 100_000),
)


def nested(depth: int) -> Any:
    """A list in a list, so deep."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


any_text = st.text(st.characters(codec=None, categories=None), max_size=250)
texts = st.one_of(
    st.sampled_from(SQL),
    st.sampled_from(ODD),
    any_text,
    st.builds("{}{}".format, st.sampled_from(SQL), any_text),
)
no_texts = st.one_of(
    st.none(),
    st.integers(),
    st.binary(max_size=20),
    st.floats(),
    st.just(["id"]),
    st.just({"id": 1}),
    st.just(object()),
)
names = st.one_of(texts, texts, texts, no_texts)

numbers = st.one_of(
    st.integers(),
    st.sampled_from([2**53, 2**63, 2**64, -(2**63) - 1, 10**400, -1, 0]),
    st.floats(allow_nan=True, allow_infinity=True),
)
leaves = st.one_of(
    st.none(), st.booleans(), numbers, texts, st.binary(max_size=50), st.just(object())
)
payloads = st.one_of(
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(texts, inner, max_size=4),
            st.dictionaries(st.one_of(st.integers(), texts), inner, max_size=3),
            st.tuples(inner, inner),
        ),
        max_leaves=12,
    ),
    st.sampled_from([50, 500, 5_000, 100_000]).map(nested),
    st.sampled_from([1_000, 1_100_000]).map(lambda size: "x" * size),
)
