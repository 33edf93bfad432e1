"""The definitions on Spark, for logs that outgrow one machine: sessions, labels, features.

Ibis compiles the same definitions to Spark's SQL. Spark computes; the rows are then sorted and
published like those of DuckDB, and are the same to the byte.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.tables.sessions import EVENTS, MOMENTS, SESSION_EVENTS

Compute = Callable[[ir.Table, str], Path]
"""(definition of rows, name) -> folder with the rows as Parquet."""


@contextmanager
def spark_engine(settings: Settings) -> Iterator[Compute]:
    """Computes definitions over what is published; the results are removed when the block ends.

    The first definition starts Spark: where every table is up to date, it never starts.

    Raises:
        NextbuyError: pyspark or Java is not installed.
    """
    try:
        from pyspark.sql import SparkSession

        _ = ibis.pyspark  # loads the backend, whose options its compiler reads
    except ImportError:
        raise NextbuyError(
            "Spark is not installed. Install it with: "
            ".venv/bin/uv pip install --python .venv/bin/python --require-hashes "
            "-r requirements/spark.lock"
        ) from None
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise NextbuyError("Spark needs Java 17 or later: none is on PATH, nor is JAVA_HOME set.")
    work = settings.data / "tmp" / "spark"
    shutil.rmtree(work, ignore_errors=True)
    is_local = settings.spark_master.startswith("local")

    @cache
    def session() -> SparkSession:
        return (
            SparkSession.builder.master(settings.spark_master)
            .appName("nextbuy")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.session.timeZone", "UTC")
            # Spark's 200 are meant for a cluster: on one machine most of them would be empty.
            .config("spark.sql.shuffle.partitions", "8" if is_local else "200")
            .config("spark.sql.warehouse.dir", str(work / "warehouse"))
            .config("spark.local.dir", str(work / "local"))
            .config("spark.log.level", "ERROR")
            .getOrCreate()
        )

    published = {EVENTS.get_name(): settings.events, SESSION_EVENTS.get_name(): settings.sessions}

    def compute(rows: ir.Table, name: str) -> Path:
        spark = session()
        for table in rows.op().find(ops.UnboundTable):
            spark.read.parquet(str(published[table.name].resolve())).selectExpr(
                *(
                    f"unix_micros({MOMENTS[column]}) AS {column}" if column in MOMENTS else column
                    for column in table.schema
                )
            ).createOrReplaceTempView(table.name)
        sql = str(ibis.to_sql(rows, dialect="pyspark"))
        spark.sql(sql).write.mode("overwrite").parquet(str(work / name))
        return work / name

    try:
        yield compute
    finally:
        if session.cache_info().currsize:
            session().stop()
        shutil.rmtree(work, ignore_errors=True)
