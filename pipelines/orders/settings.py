"""Where the outside services of this domain are: environment variables HAULIER_…, or the `haulier.toml`, read when first needed."""

from __future__ import annotations

import functools
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from config.settings import MissingSettingError


class OrdersSettings(BaseSettings):
    """Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="HAULIER_", toml_file="haulier.toml", extra="ignore", frozen=True)

    gateway_url: str | None = Field(default=None, pattern="^https?://", description="the payment gateway, as http://host:port")
    gateway_timeout: float = Field(default=10, gt=0, le=25, description="for one call; below the attempt's own 30 s")
    carrier_url: str | None = Field(default=None, pattern="^https?://", description="the carrier, as http://host:port")
    carrier_timeout: float = Field(default=10, gt=0, le=25, description="for one call; below the attempt's own 30 s")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path("haulier.toml"))

    def need_gateway(self) -> str:
        """The gateway's address. Raises MissingSettingError when none is set."""
        return _need(self.gateway_url, "HAULIER_GATEWAY_URL", "of the payment gateway that orders.charge calls")

    def need_carrier(self) -> str:
        """The carrier's address. Raises MissingSettingError when none is set."""
        return _need(self.carrier_url, "HAULIER_CARRIER_URL", "of the carrier that orders.ship calls")


@functools.cache
def settings() -> OrdersSettings:
    """Read once in each process: reading costs milliseconds, as much as a charge."""
    return OrdersSettings()


def _need(value: str | None, name: str, which: str) -> str:
    if value is None:
        raise MissingSettingError(f"{name} is not set; set it to the address (http://host:port) {which}")
    return value
