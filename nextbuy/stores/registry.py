"""Feast's registry file, below the data folder instead of beside the definitions."""

import os
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig
from feast.utils import _utc_now
from google.protobuf.message import DecodeError

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings


class NextbuyRegistryStore(FileRegistryStore):
    """A file registry whose relative `path` is resolved below `Settings().data`.

    It is written aside and renamed, so that a reader never meets half a registry.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._filepath = Settings().data / registry_config.path  # an absolute path stays

    def get_registry_proto(self) -> Registry:
        """The registry as it is on the disk.

        Raises:
            FileNotFoundError: there is none yet; Feast then begins one.
            NextbuyError: the file is damaged.
        """
        try:
            found: Registry = super().get_registry_proto()  # type: ignore[no-untyped-call]
            return found
        except DecodeError as error:
            raise NextbuyError(
                f"Feast's registry {self._filepath} is damaged ({error}). Remove the file and run: "
                "nextbuy apply. It is made of the definitions alone; tables and Redis stay."
            ) from error

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = os.urandom(16).hex()
        registry_proto.last_updated.FromDatetime(_utc_now())
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        aside = self._filepath.with_name(f"{self._filepath.name}.{os.getpid()}")
        try:
            with aside.open("wb") as file:
                file.write(registry_proto.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._filepath)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
