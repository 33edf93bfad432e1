"""The container image of the Bento."""

from bentoml.images import Image

from nextbuy.settings import PROJECT

BASE = "python:3.11.14-slim-bookworm"
"""Pinned to the patch; a registry of one's own may stand in (`docker tag`, `buildah tag`)."""


def image() -> Image:
    """Python, the one system library that LightGBM needs, and the service's locked packages."""
    built = Image(base_image=BASE, python_version="3.11", distro="none", lock_python_packages=False)
    built.run(
        "apt-get update && apt-get install --yes --no-install-recommends libgomp1 "
        "&& rm -rf /var/lib/apt/lists/*"
    )
    # `requirements_file` takes no absolute path, and a Bento is served from any folder.
    return built.python_packages((PROJECT / "requirements" / "service.lock").read_text())
