"""Which private parts of other packages we use, and what breaks when they change.

An upgrade of one of these packages begins here. A part that is not listed fails, and so does a line
of the list that nothing uses any more.
"""

import ast
import importlib
import inspect
import re

from tests.test_architecture import FILES, FOLDERS, ROOT

PRIVATE = {
    (
        "monitoring/drift.py",
        "evidently.legacy.calculations.stattests.register_stattest",
    ): "our distance on Evidently's page, which knows methods by name; the page breaks",
    (
        "monitoring/drift.py",
        "evidently.legacy.calculations.stattests.registry.StatTest",
    ): "the same: its name and threshold; the page breaks",
    ("monitoring/drift.py", "evidently.legacy.core.ColumnType"): (
        "the same: that it compares numbers; the page breaks"
    ),
    ("nextbuy/stores/compute_engine.py", "feast.utils._get_column_names"): (
        "which columns of a source a view takes, under its field mapping; materialize breaks"
    ),
    (
        "nextbuy/stores/offline/sources.py",
        "feast.infra.offline_stores.duckdb._read_data_source",
    ): "how Feast reads a source that is not Parquet (Delta); retrieval from such a source breaks",
    (
        "nextbuy/stores/online/encoded_rows.py",
        "feast.infra.online_stores.helpers._redis_key",
    ): "the key of a row; with another one Feast's own reads of our hashes break",
    ("nextbuy/stores/online/layout.py", "feast.infra.online_stores.helpers._mmh3"): (
        "the name of a feature's field in the hash; with another one reads of hashes break"
    ),
    ("nextbuy/stores/online/reader.py", "feast.utils._get_feature_views_to_use"): (
        "the views of a request, on-demand ones apart; the reader breaks when it is planned"
    ),
    ("nextbuy/stores/online/reader.py", "feast.utils._group_feature_refs"): (
        "references by view; the reader breaks when it is planned"
    ),
}
"""(file, part) -> what it is for, and what breaks."""
OVERRIDDEN = {
    "NextbuyEngine._materialize_one": "one view at a time into Redis; materialize breaks",
    "NextbuyRegistryStore._write_registry": "the registry as one file; `feast apply` breaks",
    "DuckdbRetrievalJob._to_arrow_internal": "retrieval as Arrow; get_historical_features breaks",
    "DuckdbRetrievalJob._to_df_internal": "retrieval as pandas; get_historical_features breaks",
    "_TableJob._to_arrow_internal": "a pulled table as Arrow; materialize by Feast's engine breaks",
    "NextbuyOnlineStore._get_client": "the embedded Redis without a URL; every online call breaks",
    "NextbuyOnlineStore._get_client_async": "the same for asyncio; async reads break",
    "NextbuyOnlineStore._read_features_per_fv": "errors in our words; TTLs break",
    "NextbuyOnlineStore._read_features_per_fv_async": "the same for asyncio; its TTLs break",
    "NextbuyOnlineStore._generate_hset_keys_for_features": "the TTL of a view; TTLs break",
    "NextbuyOnlineStore._read_hash_fields": "many hashes in one round trip; reads break",
    "NextbuyOnlineStore._convert_redis_values_to_protobuf": "expired rows; TTLs break",
    "DuckDBDialect._get_server_version_info": "SQLAlchemy asks at connect; all checks break",
    "DuckDBDialect._get_default_schema_name": "the same; all checks break",
}
"""Private method of another package's class that a class of ours overrides -> what breaks."""
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_exit"}
"""Named tuples' and os's own, public in spite of the underscore."""
KNOWN_INTERNALS = {"__self__", "_internal", "legacy"}


def private_parts(file):
    """Names with an underscore in front that belong to neither Python nor this file."""
    tree = ast.parse(file.read_text())
    ours = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls")
    }
    ours |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in FOLDERS:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if "._" in node.value and " " not in node.value else []
        elif isinstance(node, ast.Attribute):
            hidden = node.attr.startswith("_") and not node.attr.endswith("__")
            strange = hidden and node.attr not in ours | DOCUMENTED
            names = [f".{node.attr}"] if strange or node.attr in KNOWN_INTERNALS else []
        else:
            continue
        for name in names:
            parts = name.split(".")
            if name.startswith(".") or any(
                part in KNOWN_INTERNALS or (part.startswith("_") and not part.startswith("__"))
                for part in parts
            ):
                yield name


def test_every_private_part_of_another_package_is_listed_with_what_breaks():
    used = {(str(file.relative_to(ROOT)), name) for file in FILES for name in private_parts(file)}
    assert used == set(PRIVATE)


def overridden(module):
    """`Class._method` for each private method that another package defines and ours replaces."""
    for name, ours in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if ours.__module__ == module:
            for base in ours.__mro__[1:]:
                if base.__module__.split(".")[0] not in (*FOLDERS, "builtins", "typing", "abc"):
                    private = {n for n in vars(base) if re.fullmatch(r"_(?!_|abc_).+", n)}
                    yield from (f"{name}.{method}" for method in private & set(vars(ours)))


def test_every_private_method_that_we_override_is_listed_with_what_breaks():
    """Classes of the packages whose interfaces we fill in: Feast and SQLAlchemy."""
    modules = (
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for folder in ("nextbuy/stores", "monitoring")
        for file in (ROOT / folder).rglob("*.py")
        if not file.is_relative_to(ROOT / "monitoring" / "dashboard") and file.stem != "__init__"
    )
    assert {name for module in modules for name in overridden(module)} == set(OVERRIDDEN)


def test_every_reason_says_what_breaks():
    for reason in (*PRIVATE.values(), *OVERRIDDEN.values()):
        assert "break" in reason
