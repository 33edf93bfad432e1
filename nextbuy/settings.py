"""WHERE things are: paths and addresses, read from the environment.

WHAT-settings (gaps, horizons, model parameters) live beside the code that uses them.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from nextbuy.errors import NextbuyError

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = PROJECT / "data" / "demo"
"""The demo's shop. Other shops lie beside it, never within."""


class EnvironmentSettings(BaseSettings):
    """Settings read from environment variables; a wrong value is named by its variable."""

    def __init__(self, **values: Any) -> None:
        """Read the environment; `values` stand in place of it.

        Raises:
            NextbuyError: a variable has no value of the right kind, or it is out of bounds.
        """
        try:
            super().__init__(**values)
        except (ValidationError, SettingsError) as error:
            wrong = str(error)
            if isinstance(error, ValidationError):
                details = error.errors(include_url=False, include_input=False)
                wrong = "; ".join(map(self._mistake, details))
            raise NextbuyError(
                f"The environment has settings that cannot be used: {wrong}. Correct or unset them."
            ) from None

    @classmethod
    def _mistake(cls, detail: Any) -> str:
        """What is wrong, after the name of the variable; settings may also be wrong together."""
        message = str(detail["msg"]).removeprefix("Value error, ")
        if not detail["loc"]:
            return message
        field = str(detail["loc"][0])  # or its alias, which is the variable's name
        alias = cls.model_fields[field].validation_alias if field in cls.model_fields else field
        variable = alias or f"{cls.model_config['env_prefix']}{field}".upper()
        return f"{variable}: {message}"


class Settings(EnvironmentSettings):
    """Paths and addresses. Cheap to build; build it where it is needed, never at import.

    >>> Settings().events.name
    'events'
    """

    model_config = SettingsConfigDict(
        env_prefix="NEXTBUY_", frozen=True, extra="forbid", populate_by_name=True
    )

    data: Path = DEFAULT_DATA
    """Everything the verbs make lies below this folder (`NEXTBUY_DATA`; a relative one is below the
    repository, from wherever a command is run)."""
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    """An outside Redis. Unset: an embedded redis-server below `data`."""
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    """An MLflow server. Unset: SQLite below `data`."""
    shopper_ttl: timedelta | None = None
    """How long after the last event a shopper's features are served, and stay in Redis (ISO 8601:
    `P90D`). Unset: for ever, which is what a log of the past needs."""
    writer_wait: timedelta = timedelta(0)
    """How long a verb that writes waits for another one to end (ISO 8601: `PT1H`)."""
    memory_limit: str = "3GB"
    """What DuckDB may hold before it spills to disk."""
    spark_master: str = "local[*]"
    """Where Spark runs, if it is asked to: this machine, or a cluster's `spark://` address."""
    threads: int | None = None
    """DuckDB threads; unset means one per core. Results do not depend on it."""

    def model_post_init(self, _: object) -> None:
        """Make `data` absolute: `feast -c feature_repo` reads this from inside that folder.

        Raises:
            NextbuyError: no folder is named, and the demo's is laid out as in older versions.
        """
        if "data" not in self.model_fields_set:
            refuse_old_layout(DEFAULT_DATA)
        object.__setattr__(self, "data", (PROJECT / self.data.expanduser()).resolve())

    @property
    def raw(self) -> Path:
        """Logs as they came, before ingestion (only the simulator writes here)."""
        return self.data / "raw"

    @property
    def events(self) -> Path:
        """Canonical events, by day."""
        return self.data / "events"

    @property
    def quarantine(self) -> Path:
        """Refused rows with their reason, a folder per run."""
        return self.data / "quarantine"

    @property
    def sessions(self) -> Path:
        """Events with their session, by day."""
        return self.data / "sessions"

    @property
    def labels(self) -> Path:
        """One row per (user, item, session) with its label, by day."""
        return self.data / "labels"

    @property
    def features(self) -> Path:
        """One folder per feature table."""
        return self.data / "features"

    @property
    def truth(self) -> Path:
        """The simulator's true probabilities. Only evaluation may read them."""
        return self.data / "truth"

    @property
    def live(self) -> Path:
        """Events taken in over HTTP, and the feature rows made of them."""
        return self.data / "live"

    @property
    def predictions(self) -> Path:
        """What the service answered."""
        return self.data / "predictions"

    @property
    def reports(self) -> Path:
        """Checks, metrics and drift, as files."""
        return self.data / "reports"

    @property
    def redis(self) -> Path:
        """The embedded Redis: socket, dump, log."""
        return self.data / "redis"

    @property
    def registry(self) -> Path:
        """Feast's registry file."""
        return self.data / "registry.db"

    @property
    def feature_repo(self) -> Path:
        """The Feast repository that declares the views."""
        return PROJECT / "feature_repo"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the environment's, else SQLite below `data`."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data / 'mlflow' / 'mlflow.db'}"


def refuse_old_layout(default: Path) -> None:
    """Name what to do with a demo's shop in the folder above the default one.

    Raises:
        NextbuyError: older versions put it there, with the other shops below it.
    """
    old = default.parent
    if default.exists() or not (old / ".versions").is_dir():
        return
    is_shop = {path: any((path / ".versions").glob("events-*")) for path in sorted(old.iterdir())}
    own = " ".join(f"{old.name}/{path.name}" for path, other in is_shop.items() if not other)
    raise NextbuyError(
        f"{old} holds a shop's tables itself, as older versions laid them out. Shops now lie "
        f"beside each other, and the demo's is {default}. While nothing runs, move it once: "
        f"cd {old.parent} && mkdir {old.name}/{default.name} && mv {own} {old.name}/{default.name}/"
        f" - or use it where it is: export NEXTBUY_DATA={old}"
    )
