"""Feast's registry file, below the data folder instead of beside the definitions."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.DataSource_pb2 import DataSource
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig
from google.protobuf.message import DecodeError, Message

from nextbuy.atomic import replacing
from nextbuy.errors import NextbuyError
from nextbuy.stores import store_settings


class NextbuyRegistryStore(FileRegistryStore):
    """A file registry whose relative `path` is resolved below `Settings().data`.

    It is replaced as a whole, so that a reader never sees half a registry. The feature tables it
    names are those of its own data folder, wherever that was when `apply` ran.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._filepath = store_settings().data / registry_config.path  # an absolute path stays

    def get_registry_proto(self) -> Registry:
        """The registry as it is on the disk.

        Raises:
            FileNotFoundError: no registry exists yet; Feast then begins one.
            NextbuyError: the file is damaged.
        """
        try:
            registry: Registry = super().get_registry_proto()  # type: ignore[no-untyped-call]
        except DecodeError as error:
            raise NextbuyError(
                f"Feast's registry {self._filepath} is damaged ({error}). Remove the file and run: "
                "nextbuy apply. It is made of the definitions alone; tables and Redis stay."
            ) from error
        for source in _data_sources(registry):
            _settle(source, store_settings().features)
        return registry

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = os.urandom(16).hex()
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        with replacing(self._filepath, durable=True) as temporary:
            temporary.write_bytes(registry_proto.SerializeToString())


def _data_sources(message: Message) -> Iterator[DataSource]:
    """Every data source inside a message: Feast copies them into views and services."""
    for field, value in message.ListFields():
        if isinstance(value, DataSource):
            yield value
        elif field.message_type is not None:
            inner = [value] if isinstance(value, Message) else value
            if field.message_type.GetOptions().map_entry:
                inner = [part for part in value.values() if isinstance(part, Message)]
            for part in inner:
                yield from [part] if isinstance(part, DataSource) else _data_sources(part)


def _settle(source: DataSource, features: Path) -> None:
    """Let a source of ours (`NAME_table`, at `…/features/NAME`) name the table in `features`."""
    table = source.name.removesuffix("_table")
    ours = re.compile(rf".*/features/{re.escape(table)}(/day=\*)?")
    for options, path in ((source.file_options, "uri"), (source.spark_options, "path")):
        if source.name != table and (place := ours.fullmatch(getattr(options, path))):
            setattr(options, path, f"{features / table}{place[1] or ''}")
