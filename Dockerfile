# Two images: `server`, the default, and `worker`, which holds no more than a worker host needs.
#   docker build --tag holdfast-server .
#   docker build --tag holdfast-worker --target worker .

FROM python:3.13-slim AS source
# As a variable the pins hold in pip's environments for builds, too.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt LICENSE pyproject.toml README.md ./
COPY dashboard_api dashboard_api
COPY queue_core queue_core
COPY server server
COPY worker worker
RUN python -m venv /opt/holdfast

FROM source AS worker-environment
RUN /opt/holdfast/bin/pip install '.[mcp]'

FROM source AS server-environment
RUN /opt/holdfast/bin/pip install '.[mcp,server]'

FROM python:3.13-slim AS system
RUN groupadd --gid 10001 holdfast \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /var/lib/holdfast holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    HOLDFAST_LOG_FORMAT=json
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/holdfast

# A worker is the first process of its container: run it with --init, so that what its commands leave is reaped.
FROM system AS worker
COPY --from=worker-environment /opt/holdfast /opt/holdfast
HEALTHCHECK --interval=60s --timeout=15s --start-period=30s CMD ["holdfast", "worker", "status"]
ENTRYPOINT ["holdfast", "worker", "run"]
CMD ["--help"]

# SQLite, and artifacts where HOLDFAST_ARTIFACT_DIR is in there, lie in the volume. On an address that is not loopback
# a server does not start before HOLDFAST_AUTH_PROVIDER says who may call it.
FROM system AS server
COPY --from=server-environment /opt/holdfast /opt/holdfast
ENV HOLDFAST_HOST=0.0.0.0 \
    HOLDFAST_PORT=8790 \
    HOLDFAST_DATABASE_URL=sqlite:////var/lib/holdfast/holdfast.db
VOLUME /var/lib/holdfast
EXPOSE 8790
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8790/healthz', timeout=4)"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
