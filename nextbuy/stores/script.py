"""The Lua script that writes rows of one feature view, each whole and never over a newer one.

Redis runs it without interruption, so two writers cannot come between the look at the stored
timestamp and the write. It is made per view with the names of the hash fields in its text: they
need not be sent, parsed and copied with every row.

An equal timestamp is written again: a run that is repeated completes what is missing, and a
corrected value or a new feature of the same moment arrives. (Stock Feast leaves such a row out.)
"""

from collections.abc import Sequence
from typing import Literal

FIELDS_PER_CALL = 60  # Lua has 250 registers for the arguments of one call

Expiry = Literal["never", "stamp", "persist"] | int
"""A key's end: none; the stamp sent with each row, or later if it holds a view that lasts longer;
removed, as the view has no end; so many seconds after the write, as stock Feast's
`key_ttl_seconds`."""

NEWER = """
local function stamp(s)
  local part, i = {[8] = 0, [16] = 0}, 1
  while i <= #s do
    local tag, low, high, power = string.byte(s, i), 0, 0, 1
    local n = 0
    repeat
      i = i + 1
      local b = string.byte(s, i)
      if n < 7 then low = low + b % 128 * power else high = high + b % 128 * power end
      n = n + 1
      if n == 7 then power = 1 else power = power * 128 end
    until b < 128
    if high >= 16384 then high = high - 32768 end
    part[tag] = low + high * 562949953421312
    i = i + 1
  end
  return part[8], part[16]
end
local function newer(a, b)
  local s, n = stamp(a)
  local t, m = stamp(b)
  return s > t or (s == t and n > m)
end
"""


def write_script(
    stamp_field: bytes, fields: Sequence[bytes], packed: bool, expiry: Expiry
) -> bytes:
    """The script for rows of these hash fields; it returns how many rows it wrote.

    KEYS: the hash of each row, then (packed) the packed key of each row. ARGV, row by row: one
    value per field, the protobuf timestamp, (expiry "stamp") the end in Unix milliseconds,
    (packed) the packed row.
    """
    stamp = len(fields) + 1
    end = stamp + (expiry == "stamp")
    width = end + packed
    pairs = [f"{_text(field)},V[a+{i}]" for i, field in enumerate(fields, 1)]
    pairs.append(f"{_text(stamp_field)},t")
    writes = [
        f"call('HSET',k,{','.join(pairs[first : first + FIELDS_PER_CALL])})"
        for first in range(0, len(pairs), FIELDS_PER_CALL)
    ]
    before = "local left=call('PTTL',k)" if expiry in ("stamp", "persist") else ""
    if expiry == "stamp":
        writes.append(
            f"local e=tonumber(V[a+{end}]) "
            "if left==-2 or (left>=0 and now+left<e) then call('PEXPIREAT',k,V[a+"
            f"{end}]) end"
        )
    elif expiry == "persist":
        writes.append("if left>=0 then call('PERSIST',k) end")
    elif expiry != "never":
        writes.append(f"call('EXPIRE',k,{expiry})")
    if packed:
        writes.append(f"call('SET',K[n+i],V[a+{width}])")
        if expiry == "stamp":
            writes.append(f"call('PEXPIREAT',K[n+i],V[a+{end}])")
        elif isinstance(expiry, int):
            writes.append(f"call('EXPIRE',K[n+i],{expiry})")
    clock = "local c=call('TIME') local now=c[1]*1000+c[2]/1000" if expiry == "stamp" else ""
    return (
        f"{NEWER} local K,V,call=KEYS,ARGV,redis.call {clock} local n=#K/{1 + packed} "
        f"local a,written=0,0 for i=1,n do local k,t=K[i],V[a+{stamp}] "
        f"local old=call('HGET',k,{_text(stamp_field)}) "
        f"if not old or old==t or newer(t,old) then {before} {' '.join(writes)} "
        f"written=written+1 end a=a+{width} end return written"
    ).encode()


CLOCK = b"""
local old = redis.call('GET', KEYS[1])
if not old or tonumber(old) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
"""
"""Moves a clock forward, never back."""


def _text(raw: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in raw) + '"'
