"""What a reader asks and how it reads the answer, beside what the writer makes of the values."""

from types import SimpleNamespace

import hiredis
import numpy as np
import pyarrow as pa
import pytest
from feast.value_type import ValueType
from hypothesis import given
from hypothesis import strategies as st

from nextbuy.errors import NextbuyError
from nextbuy.stores.online import encoding
from nextbuy.stores.online.decoding import HashViewReader, _around_argument, _numbers
from nextbuy.stores.online.layout import RedisLayout, hash_field, packed_layout
from nextbuy.stores.online.request import KeyEncoder, RequestKeys
from nextbuy.times import NOT_SEEN_US

KINDS = [ValueType.STRING, ValueType.INT64]
TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["%", "%b%d", "x" * 37, "$1\r\n", "ü"]))
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FEATURES = [("f", ValueType.INT64)]


def requested(keys, columns):
    """The keys that Redis would see, row by row."""
    encoded = [KeyEncoder("k", kind)(c) for kind, c in zip(KINDS, columns, strict=True)]
    arguments, count, positions = keys(encoded)
    server = hiredis.Reader()
    server.feed(b"*%d\r\n%b" % (count, arguments))
    distinct = server.gets()
    rows = max(map(len, columns))
    if positions is None:
        return distinct if count == rows else distinct * rows
    return [distinct[position] for position in positions]


@given(st.lists(st.tuples(TEXTS, INTEGERS), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_keys_are_those_that_were_written(entities, one_text, one_integer):
    texts, integers = map(list, zip(*entities, strict=True))
    texts = texts[:1] if one_text else texts
    integers = integers[:1] if one_integer else integers
    rows = max(len(texts), len(integers))
    arrays = [
        pa.array(texts * (rows // len(texts)), pa.string()),
        pa.array(integers * (rows // len(integers)), pa.int64()),
    ]
    packed = packed_layout("shop", "pairs", ["a", "b"], FEATURES)
    packed_keys = RequestKeys(KINDS, packed.prefix, frame=_around_argument, bare=True)
    written = encoding.packed_keys(packed, arrays, KINDS).to_pylist()
    assert requested(packed_keys, [texts, integers]) == written
    head = b"%d\x02"
    hashes = RequestKeys(KINDS, head, b"shop", frame=_around_argument)
    written = encoding.entity_keys(arrays, ["a", "b"], KINDS, "shop").to_pylist()
    names = 4 + 2 * (4 + 4 + 1)  # how many join keys, then of each its type, length and name
    assert requested(hashes, [texts, integers]) == [head + key[names:] for key in written]


def test_null_in_a_key_makes_a_key_that_no_row_has():
    packed = RequestKeys(KINDS, b"nb", frame=_around_argument, bare=True)
    assert requested(packed, [["a", None], [1]])[1] == b""
    assert requested(packed, [["a"], [None]]) == [b""]
    with pytest.raises(NextbuyError, match="'k' takes int"):
        KeyEncoder("k", ValueType.INT64)(["1"])


@given(st.lists(TEXTS, min_size=1, max_size=6, unique=True))
def test_a_command_for_each_hash(users):
    config = SimpleNamespace(project="shop")
    layout = RedisLayout("pairs", (("a", ValueType.STRING),), (), None, None)
    view = HashViewReader(layout, "pairs", ["a"], dict(FEATURES), config)
    commands, count, _ = view.keys([KeyEncoder("a", ValueType.STRING)(users)])
    server = hiredis.Reader()
    server.feed(commands)
    keys = encoding.entity_keys([pa.array(users)], ["a"], [ValueType.STRING], "shop")
    fields = [hash_field("pairs", "f"), b"_ts:pairs"]
    expected = [[b"HMGET", key, *fields] for key in keys.to_pylist()]
    assert [server.gets() for _ in range(count)] == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(10**16), 10**17)), max_size=6))
def test_timestamps_are_those_that_were_written(times):
    raw = encoding.timestamps(np.array([t or 0 for t in times], np.int64)).to_pylist()
    decoded = encoding.read_timestamps(
        [None if t is None else r for t, r in zip(times, raw, strict=True)]
    )
    assert decoded.tolist() == [NOT_SEEN_US if t is None else t for t in times]


@given(st.lists(st.one_of(st.none(), INTEGERS), max_size=6))
def test_integers_are_those_that_were_written(numbers):
    present = np.array([n is not None for n in numbers], np.bool_)
    raw = encoding.varints(encoding.INT64, np.array([n or 0 for n in numbers], np.int64), present)
    values, missing = _numbers(raw.to_pylist(), ValueType.INT64)
    assert np.where(missing, None, values).tolist() == numbers
