# The web page, built by Node, and its server: static files and a proxy to the graph.
# Build in the root of the repository: docker build -f dockerfiles/frontend.Dockerfile .
FROM node:24.19.0-bookworm-slim AS page
ENV NPM_CONFIG_AUDIT=false NPM_CONFIG_FUND=false NPM_CONFIG_UPDATE_NOTIFIER=false
WORKDIR /build/page
COPY frontend/page/package.json frontend/page/package-lock.json frontend/page/.npmrc ./
# Exactly the lock, by its hashes; no package's own scripts.
RUN npm ci --ignore-scripts
COPY frontend/page/index.html frontend/page/tsconfig.json frontend/page/vite.config.ts ./
COPY frontend/page/public public
COPY frontend/page/src src
RUN npm run build -- --outDir /build/dist

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
WORKDIR /build
COPY locks/uv.txt locks/frontend.txt locks/
RUN python -m venv /uv && /uv/bin/pip install --require-hashes --only-binary :all: -r locks/uv.txt
# sync, not install: packages of locks/unused.in stay out.
RUN /uv/bin/uv venv --python /usr/local/bin/python3.11 /opt/venv \
 && /uv/bin/uv pip sync --python /opt/venv --require-hashes --only-binary :all: locks/frontend.txt \
 && echo /opt/kserve-rag > /opt/venv/lib/python3.11/site-packages/kserve-rag.pth
COPY pyproject.toml dockerfiles/metadata.py ./
RUN /opt/venv/bin/python metadata.py /opt/venv/lib/python3.11/site-packages
COPY chassis /opt/kserve-rag/chassis
COPY frontend/__init__.py frontend/__main__.py frontend/assets.py frontend/proxy.py frontend/server.py frontend/settings.py \
     /opt/kserve-rag/frontend/
COPY --from=page /build/dist /opt/kserve-rag/frontend/dist
# Fails if a module is missing, and compiles the imported modules: nothing writes bytecode later.
RUN /opt/venv/bin/python -c "import frontend.__main__, uvicorn.lifespan.off, uvicorn.protocols.http.httptools_impl, \
    opentelemetry.exporter.otlp.proto.grpc.trace_exporter, \
    opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace.export"

FROM python:3.11.14-slim-bookworm
# The base image has no bytecode of the standard library, and a pod could not keep what it compiles.
RUN rm -rf /usr/local/lib/python3.11/site-packages/* /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* \
 && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.11 \
 && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kserve-rag
COPY --from=build /opt /opt
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=kserve-rag \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1
WORKDIR /opt/kserve-rag
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "frontend"]
LABEL org.opencontainers.image.title="kserve-rag-frontend" \
      org.opencontainers.image.description="The web page of a KServe graph that answers from documents, and its server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The kserve-rag authors" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"
