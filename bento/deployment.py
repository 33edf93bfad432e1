"""Which models a server answers with: read by each worker when it starts.

`bentoml serve` and a container name them in the environment. `nextbuy serve` writes a file, which
`nextbuy reload` replaces before new workers take over from the old ones.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nextbuy.contract import REGISTERED_MODEL

FILE = "NEXTBUY_DEPLOYMENT"
"""Environment variable: path of the file, where there is one."""


class Deployment(BaseModel):
    """Tags in BentoML's model store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = f"{REGISTERED_MODEL}:latest"
    """Its scores are the answer."""
    shadow: str | None = None
    """Scores the same requests beside it, for the log alone."""

    def write(self, path: Path) -> None:
        """Replace the file at once: a worker reads the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}-{os.getpid()}")
        aside.write_text(self.model_dump_json())
        aside.rename(path)


def deployed() -> Deployment:
    """What this environment says: the file, else `NEXTBUY_MODEL` and `NEXTBUY_SHADOW`."""
    if path := os.environ.get(FILE):
        return Deployment.model_validate_json(Path(path).read_text())
    named = {"model": os.environ.get("NEXTBUY_MODEL"), "shadow": os.environ.get("NEXTBUY_SHADOW")}
    return Deployment(**{name: tag for name, tag in named.items() if tag})
