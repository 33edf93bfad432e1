"""A retrieval that runs in DuckDB when its result is requested, and streams it to its target."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from nextbuy.atomic import replacing
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.sql import literal
from nextbuy.stores import store_settings

BATCH_ROWS = 122_880

RetrievalPlan = Callable[[duckdb.DuckDBPyConnection], str]
"""Binds what a query needs to a connection and gives the query."""


class DuckdbRetrievalJob(RetrievalJob):
    """The result of `plan`, as pandas or Arrow, as a stream of batches, or as Parquet files."""

    def __init__(
        self,
        plan: RetrievalPlan,
        *,
        order_by: str | None = None,
        repo_path: str | Path | None,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        full_feature_names: bool = False,
        metadata: Callable[[], RetrievalMetadata] | None = None,
    ) -> None:
        super().__init__()
        self._plan, self._order_by = plan, order_by
        self._repo_path = repo_path
        self._views = on_demand_feature_views or []
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The transformations that `to_arrow`, `to_df` and `to_reader` apply."""
        return self._views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and time range of the request; None where Feast needs none."""
        return self._metadata() if self._metadata else None

    def _query(self, connection: duckdb.DuckDBPyConnection, ordered: bool = True) -> str:
        query = self._plan(connection)
        return f"{query} ORDER BY {self._order_by}" if ordered and self._order_by else query

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with duckdb_connection(store_settings()) as connection, explain_duckdb_errors():
            table: pa.Table = connection.sql(self._query(connection)).to_arrow_table()
        return table

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal(timeout).to_pandas()

    def to_reader(self, batch_rows: int = BATCH_ROWS, ordered: bool = True) -> pa.RecordBatchReader:
        """The result as a stream of record batches; it is never in memory as a whole.

        On-demand feature views are applied batch by batch. Without `ordered` nothing is sorted and
        the rows come in any order.
        """
        batches = self._batches(batch_rows, ordered)
        schema = next(batches)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def _batches(self, batch_rows: int, ordered: bool) -> Iterator[Any]:
        """The schema first, then the batches."""
        with duckdb_connection(store_settings()) as connection, explain_duckdb_errors():
            reader = connection.sql(self._query(connection, ordered)).to_arrow_reader(batch_rows)
            yield self._transformed(reader.schema.empty_table()).schema
            for batch in reader:
                table = self._transformed(pa.Table.from_batches([batch]))
                yield from table.combine_chunks().to_batches()

    def _transformed(self, table: pa.Table) -> pa.Table:
        if not self._views:
            return table
        return _TableJob(table, self).to_arrow()

    def to_parquet(self, path: str | Path) -> None:
        """Write the result to a file (`*.parquet`) or, by name, into a new folder; streamed.

        The path appears when it is complete.
        """
        target = Path(path)
        if target.suffix == ".parquet":
            with replacing(target) as temporary:
                self._write(temporary)
            return
        with replacing(target) as temporary:
            try:
                temporary.mkdir()
                self._write(temporary / "part-0.parquet")
                if target.is_dir():
                    shutil.rmtree(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise

    def _write(self, file: Path) -> None:
        if self._views:
            reader = self.to_reader()
            with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
                for batch in reader:
                    writer.write_batch(batch)
            return
        with duckdb_connection(store_settings()) as connection, explain_duckdb_errors():
            query = self._query(connection)
            connection.execute(
                f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd)"
            )

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the result to the place of a saved dataset."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise NextbuyError(
                f"A saved dataset can only go to a SavedDatasetFileStorage here, not to "
                f"{type(storage).__name__}."
            )
        target = FileSource.get_uri_for_file_path(self._repo_path, storage.file_options.uri)
        if Path(target).exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=target)
        self.to_parquet(target)


class _TableJob(RetrievalJob):
    """A table in memory, so that Feast applies its on-demand views to it."""

    def __init__(self, table: pa.Table, job: DuckdbRetrievalJob) -> None:
        super().__init__()
        self._table, self._job = table, job

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table

    @property
    def full_feature_names(self) -> bool:
        return self._job.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._job.on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._job.metadata


@contextmanager
def explain_duckdb_errors() -> Iterator[None]:
    """Turn DuckDB's errors into ours; its message names file and column already.

    Raises:
        NextbuyError: DuckDB ran out of memory or disk, or could not run the query.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise NextbuyError(
            f"DuckDB ran out of memory or disk: {error} Raise NEXTBUY_MEMORY_LIMIT or free "
            f"space below {store_settings().data / 'tmp'}."
        ) from error
    except duckdb.Error as error:
        raise NextbuyError(f"DuckDB could not read the features: {error}") from error
