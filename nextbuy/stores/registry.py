"""Feast's registry file, below the data folder instead of beside the definitions."""

import os
from datetime import UTC, datetime
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig
from google.protobuf.message import DecodeError

from nextbuy.atomic import replacing
from nextbuy.errors import NextbuyError
from nextbuy.stores import store_settings


class NextbuyRegistryStore(FileRegistryStore):
    """A file registry whose relative `path` is resolved below `Settings().data`.

    It is replaced as a whole, so that a reader never sees half a registry.
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
            return registry
        except DecodeError as error:
            raise NextbuyError(
                f"Feast's registry {self._filepath} is damaged ({error}). Remove the file and run: "
                "nextbuy apply. It is made of the definitions alone; tables and Redis stay."
            ) from error

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = os.urandom(16).hex()
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        with replacing(self._filepath, durable=True) as temporary:
            temporary.write_bytes(registry_proto.SerializeToString())
