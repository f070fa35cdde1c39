# Two images from one file: `--target webhook` and `--target backup-manager`. docs/images.md: how to build them, what is inside.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm
# Where dumpling and tidb-lightning come from: `images` (the two below) or `local` (binaries in TOOLS_DIR of the build context).
ARG TOOLS=images
ARG TOOLS_VERSION=v8.5.7
ARG DUMPLING_IMAGE=docker.io/pingcap/dumpling:${TOOLS_VERSION}
ARG LIGHTNING_IMAGE=docker.io/pingcap/tidb-lightning:${TOOLS_VERSION}
ARG VERSION=0.1.0
ARG REVISION=unknown

# ---- what both builds start with: uv and the locked list of packages
FROM ${BASE_IMAGE} AS build
ARG UV_VERSION=0.13.9
# An extra CA for networks that open TLS: `--secret id=ca,src=FILE`. It is not kept in any layer.
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /opt/uv && /opt/uv/bin/python -m pip install --quiet --no-cache-dir "uv==${UV_VERSION}"
ENV UV_PROJECT_ENVIRONMENT=/opt/venv \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./

FROM build AS build-webhook
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --extra webhook
COPY crds crds
COPY app app
COPY rotator rotator
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    /opt/uv/bin/uv sync --frozen --no-dev --no-editable --extra webhook \
    && rm --force /opt/venv/bin/backup-manager /opt/venv/bin/tidb-backup

FROM build AS build-manager
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --extra manager
COPY crds crds
COPY backup_manager backup_manager
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    /opt/uv/bin/uv sync --frozen --no-dev --no-editable --extra manager

# ---- the tools
FROM ${DUMPLING_IMAGE} AS dumpling
FROM ${LIGHTNING_IMAGE} AS lightning
FROM scratch AS tools-images
COPY --from=dumpling /dumpling /dumpling
COPY --from=lightning /tidb-lightning /tidb-lightning
FROM scratch AS tools-local
ARG TOOLS_DIR=.tools/image
COPY ${TOOLS_DIR}/dumpling /dumpling
COPY ${TOOLS_DIR}/tidb-lightning /tidb-lightning
FROM tools-${TOOLS} AS tools

# ---- what both images run on: Python, certificates, time zones, an account without rights; no installer
FROM ${BASE_IMAGE} AS runtime
RUN echo 'tidb-backup:x:65532:' >> /etc/group \
    && echo 'tidb-backup:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/pip* /usr/local/lib/python3.*/ensurepip \
        /usr/lib/python3.*/ensurepip /usr/share/python-wheels
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532

FROM runtime AS webhook
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="tidb-backup webhook" \
      org.opencontainers.image.description="Metacontroller hooks for backup and restore of TiDB on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-webhook /opt/venv /opt/venv
ENV TIDB_BACKUP_HOST=0.0.0.0 \
    TIDB_BACKUP_PORT=8080
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "app"]

FROM runtime AS backup-manager
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="tidb-backup backup-manager" \
      org.opencontainers.image.description="Runs br, dumpling and tidb-lightning in a Kubernetes Job and reports" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=tools --chmod=0755 /dumpling /tidb-lightning /usr/local/bin/
COPY --from=build-manager /opt/venv /opt/venv
# br is not here: it has to match the cluster's TiKV, so a Job's init container brings it.
ENTRYPOINT ["backup-manager"]
CMD ["--help"]
