"""The settings of a run: those of the shop's record, and a YAML file with what differs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ConfigDict, Field, ValidationError

from nextbuy.cli.app import print_line
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import (
    SHOP_FILE,
    ShopRecord,
    ShopSettings,
    published_settings,
    shop_record,
    write_record,
)
from nextbuy.yaml_file import load_yaml, mistakes

if TYPE_CHECKING:
    from training.config import TrainConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="NEXTBUY_CONFIG",
        help="YAML file with what differs from the shop's recorded settings, at first from the "
        "defaults: sessions, labels, time_zone, train.",
    ),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="Change the shop's recorded settings to those of --config, and rebuild the tables.",
    ),
]


class RunConfig(ShopSettings):
    """Sections of the file: the shop's settings, and those of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: dict[str, object] = Field(default_factory=dict)
    """Read by `train_config`: only training imports training's settings."""

    @property
    def shop(self) -> ShopSettings:
        """The settings that labels and features depend on."""
        return ShopSettings(**self.model_dump(exclude={"train"}))

    def train_config(self) -> "TrainConfig":
        """The training section, checked."""
        from training.config import TrainConfig

        return TrainConfig.model_validate(self.train)


def read_config(file: Path | None) -> RunConfig:
    """Read the file; None gives the defaults.

    Raises:
        NextbuyError: the file is missing, or a setting is unknown or out of bounds.
    """
    if file is None:
        return RunConfig()
    config = load_yaml(file, RunConfig)
    try:
        config.train_config()
    except ValidationError as error:
        raise NextbuyError(mistakes(error, f"The config file {file}", ("train",))) from None
    return config


def run_config(file: Path | None) -> RunConfig:
    """The settings of a verb that reads what is built: the shop's, with the training of the file.

    Raises:
        NextbuyError: as `read_config`; or the file has another setting than the shop, or the shop's
            record cannot be read.
    """
    return _choose(Settings(), file, rebuild=False)


def check_config(file: Path | None, *, rebuild: bool = False) -> None:
    """Refuse what `build_config` would refuse, before any work; nothing is recorded."""
    _choose(Settings(), file, rebuild=rebuild)


def build_config(file: Path | None, *, rebuild: bool = False) -> RunConfig:
    """The settings of a verb that builds tables; they are recorded for the verbs after it.

    Raises:
        NextbuyError: as `run_config`; with `rebuild`, the file may have other settings.
    """
    chosen = _choose(Settings(), file, rebuild=rebuild)
    keep_config(chosen)
    return chosen


def keep_config(chosen: RunConfig) -> None:
    """Record the settings for the verbs after this one; says so where that changes the record."""
    settings = Settings()
    before, now = shop_record(settings), ShopRecord(settings=chosen.shop, train=chosen.train)
    if now == before:
        return
    write_record(settings, now)
    file = settings.data / SHOP_FILE
    if before is None or before.settings != now.settings:
        print_line(f"recorded for this shop in {file}: {now.settings}")
    else:
        print_line(f"recorded for this shop in {file}: the section train of the config file")


def has_settings(settings: Settings) -> bool:
    """Whether this shop's settings are known, so that no config file has to be guessed."""
    record = shop_record(settings)
    return bool(record and record.settings) or published_settings(settings) is not None


def _choose(settings: Settings, file: Path | None, *, rebuild: bool) -> RunConfig:
    """What the file names, and for the rest what the shop has, at first the defaults."""
    given, record = read_config(file), shop_record(settings) or ShopRecord()
    published = published_settings(settings)
    shop = record.settings or published or ShopSettings()
    chosen = _with_file(shop, given)
    if published is not None and not rebuild:  # else nothing depends on what is recorded
        _refuse_differing(settings, chosen, shop, file)
    train = given.train if "train" in given.model_fields_set else record.train
    return RunConfig(**chosen.model_dump(), train=train)


def _with_file(shop: ShopSettings, given: RunConfig) -> ShopSettings:
    """The shop's settings, in place of which stand those that the file names."""
    named = given.model_dump(exclude_unset=True, exclude={"train"})
    merged: dict[str, Any] = shop.model_dump()
    for name, value in named.items():
        merged[name] = merged[name] | value if isinstance(value, dict) else value
    return ShopSettings(**merged)


def _refuse_differing(
    settings: Settings, chosen: ShopSettings, shop: ShopSettings, file: Path | None
) -> None:
    differing = chosen.differences(shop)
    if not differing:
        return
    listed = "\n".join(
        f"  {name}: {ours} in {file}, {theirs} in this shop"
        for name, (ours, theirs) in differing.items()
    )
    raise NextbuyError(
        f"{file} has other settings than {settings.data} was built with:\n{listed}\n"
        f"The shop's are recorded in {settings.data / SHOP_FILE}, and are used without --config. "
        "Leave these out of the file, name another data folder for another shop (NEXTBUY_DATA), or "
        f"change them on purpose: nextbuy sessionize --config {file} --rebuild, then nextbuy "
        "features, nextbuy apply and nextbuy train."
    )
