# One image for every role; the command says which: serve, relay, work, upkeep, migrate.
FROM python:3.12-slim AS build
WORKDIR /app
COPY requirements.lock pyproject.toml README.md ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY config config
COPY ledger ledger
COPY pipelines pipelines
COPY producers producers
COPY workers workers
COPY console console

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home haulier
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PATH=/venv/bin:$PATH HAULIER_LOG_FORMAT=json HAULIER_HOST=0.0.0.0
USER haulier
ENTRYPOINT ["python", "-m", "console.main"]
CMD ["--help"]
