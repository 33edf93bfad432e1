"""Point-in-time retrievals that are kept: the same question is answered from a file."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore

from nextbuy import atomic


def cached_features(
    file: Path,
    store: FeatureStore,
    service: FeatureService,
    rows: Callable[[], pa.Table],
    finish: Callable[[pa.Table], pa.Table],
) -> pa.Table:
    """The rows with the service's features as of each row's `event_timestamp`, read from `file`.

    Without the file they are retrieved and the file is written. Its name must carry a digest of
    all that the result depends on: the tables, the rows, the code of `rows` and `finish`. Feature
    rows created after the moment of a row are kept out.

    Args:
        file: Parquet.
        store: where the service is registered.
        service: which features, under their full names.
        rows: gives the keys, `event_timestamp` and any further columns, which stay; called when
            the file is missing.
        finish: called with what was retrieved; its result is what the file holds.
    """
    if not file.exists():
        job = store.get_historical_features(
            entity_df=rows().to_pandas(),
            features=service,
            full_feature_names=True,
            filter_by_created_timestamp=True,
        )
        with atomic.replacing(file) as temporary:
            pq.write_table(finish(job.to_arrow()), temporary, compression="zstd")
    return pq.read_table(file)
