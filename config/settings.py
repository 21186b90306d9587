"""Every setting there is, in one class: environment variables HAULIER_…, or a `haulier.toml` in the working directory."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

RELEASE = "0.1.0"

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?")


class Settings(BaseSettings):
    """Durations are seconds, sizes bytes. Raises pydantic.ValidationError that names every wrong one at once."""

    model_config = SettingsConfigDict(env_prefix="HAULIER_", toml_file="haulier.toml", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(None, description="postgresql://… of the ledger")
    broker_url: SecretStr | None = Field(None, description="amqp://… of RabbitMQ")
    redis_url: SecretStr | None = Field(None, description="redis://…; shared limits, wake-ups, cache: used where it is, needed nowhere")

    handlers: str = Field("pipelines.table:HANDLERS", description="the table of handlers to run, as package.module:NAME")

    host: str = Field("127.0.0.1", description="where the intake listens, and /metrics of the others")
    port: int = Field(8470, ge=0, le=65535, description="0 takes a free one")
    limit_rate: float | None = Field(None, gt=0, description="jobs a second that a tenant may submit, unless it was granted otherwise")
    limit_burst: int | None = Field(None, ge=1, description="…and at once; a second's worth unless it is set")
    limit_open_jobs: int | None = Field(None, ge=1, description="jobs that a tenant may have open, unless it was granted otherwise")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="where relay, workers and upkeep serve /metrics, on HAULIER_HOST: one port for each process of a machine; an intake does at its own port",
    )
    trusted_proxies: str = Field(
        "",
        description="addresses or networks, with commas between, whose X-Forwarded-For is believed; the audit's origin is the peer's otherwise",
    )

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose pages may read answers, with commas between: https://app.example.com"
    )

    processes: int = Field(2, ge=1, le=256, description="worker processes of one `haulier work`")
    threads: int = Field(2, ge=1, le=256, description="worker threads of each process")
    heartbeat: float = Field(2, gt=0, description="how often a worker renews its leases")
    lease: float = Field(8, gt=0, description="without a heartbeat for this long, a worker's jobs are rescued")
    drain: float = Field(25, gt=0, description="on SIGTERM, how long running jobs may take to finish")
    tick: float = Field(1, gt=0, description="how often upkeep looks")
    poll: float = Field(0.25, gt=0, description="how often a relay looks when nobody wakes it")

    max_job_bytes: int = Field(1 << 20, ge=1024, description="of one job's request body")
    max_batch_bytes: int = Field(32 << 20, ge=1024, description="of a batch's request body")
    max_result_bytes: int = Field(1 << 20, ge=64, description="of one job's result, where its command does not say otherwise")
    result_ttl: float | None = Field(
        None,
        gt=0,
        description="for how long a result is kept after its job's end, where the command does not say otherwise; as long as the job",
    )
    max_depth: int = Field(32, ge=2, description="nesting of a request body")
    request_deadline: float = Field(15, gt=0, description="after this the intake answers 503")
    look_again: float = Field(1, gt=0, description="how often an intake looks at what is waited for when nobody told it of a change")
    most_waiting: int = Field(10_000, ge=1, description="requests that one intake lets wait (Prefer: wait) or streams to")
    most_waiting_of_a_tenant: int = Field(5_000, ge=1, description="the same, of one tenant")
    archive_after: float = Field(3600, ge=0, description="finished families leave the live tables after this")
    retention_days: int = Field(30, ge=1, description="archived jobs are dropped after this")

    webhook_networks: str = Field("", description="where receivers may be although it is not public: networks as CIDR, with commas between")
    webhook_http: bool = Field(False, description="for development: webhooks without TLS, and on any port")
    webhook_timeout: float = Field(15, gt=0, le=25, description="for one delivery, from the look-up to the answer")
    webhook_retry_scale: float = Field(1, gt=0, description="for tests: stretches or shrinks the waits between tries of a delivery")

    log_format: str = Field("text", pattern="^(text|json)$")

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        return _expect(value, ("postgresql", "postgres"))

    @field_validator("broker_url")
    @classmethod
    def _is_amqp(cls, value: SecretStr | None) -> SecretStr | None:
        return _expect(value, ("amqp", "amqps"))

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        return _expect(value, ("redis", "rediss"))

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            ip_network(part)
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _are_origins(cls, value: Any) -> Any:
        origins = tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else tuple(value)
        wrong = [origin for origin in origins if not _ORIGIN.fullmatch(str(origin))]
        if wrong:
            raise ValueError(f"must be origins such as https://app.example.com, one by one (a cookie never goes with *), got {wrong[0]!r}")
        return origins

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (neither .env files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  nor directories of secrets)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path("haulier.toml"))

    def need_database(self) -> str:
        """The database's URL. Raises MissingSettingError when none is set."""
        return _need(self.database_url, "HAULIER_DATABASE_URL", "postgresql://user:password@host/database")

    def need_broker(self) -> str:
        """The broker's URL. Raises MissingSettingError when none is set."""
        return _need(self.broker_url, "HAULIER_BROKER_URL", "amqp://user:password@host/vhost")

    def default_limits(self) -> dict[str, Any]:
        """What holds for a tenant that was granted nothing of its own."""
        rate = self.limit_rate
        submissions = None if rate is None else {"rate": rate, "burst": self.limit_burst or max(1, round(rate))}
        return {name: value for name, value in {"submissions": submissions, "open_jobs": self.limit_open_jobs}.items() if value}

    def effective(self) -> dict[str, Any]:
        """Every setting as it stands, passwords masked."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: _mask(value.get_secret_value()) if isinstance(value, SecretStr) else value for name, value in values.items()}


class MissingSettingError(Exception):
    """A setting that this command cannot do without."""


def _need(value: SecretStr | None, name: str, example: str) -> str:
    if value is None:
        raise MissingSettingError(f"{name} is not set; expected {example} (only `haulier dev` brings its own parts)")
    return value.get_secret_value()


def _expect(value: SecretStr | None, schemes: tuple[str, ...]) -> SecretStr | None:
    scheme = urlsplit(value.get_secret_value()).scheme if value else schemes[0]
    if scheme not in schemes:
        raise ValueError(f"must begin with {schemes[0]}://, got {scheme or 'no scheme'}")
    return value


def _mask(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
