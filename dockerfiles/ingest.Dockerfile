# Ingestion: documents, chunks, embeddings, and a new index version. The image runs the Job; the service for uploads is
# `python -m ingest.server`, on port 8086 (INGEST_HTTP_PORT).
# Build in the root of the repository: docker build -f dockerfiles/ingest.Dockerfile .
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
WORKDIR /build
COPY locks/uv.txt locks/ingest.txt locks/
RUN python -m venv /uv && /uv/bin/pip install --require-hashes --only-binary :all: -r locks/uv.txt
# sync, not install: packages of locks/unused.in stay out.
RUN /uv/bin/uv venv --python /usr/local/bin/python3.11 /opt/venv \
 && /uv/bin/uv pip sync --python /opt/venv --require-hashes --only-binary :all: locks/ingest.txt \
 && echo /opt/kserve-rag > /opt/venv/lib/python3.11/site-packages/kserve-rag.pth
COPY pyproject.toml dockerfiles/metadata.py ./
RUN /opt/venv/bin/python metadata.py /opt/venv/lib/python3.11/site-packages
COPY chassis /opt/kserve-rag/chassis
COPY embedder /opt/kserve-rag/embedder
COPY text_analysis /opt/kserve-rag/text_analysis
COPY vectorstore /opt/kserve-rag/vectorstore
COPY ingest /opt/kserve-rag/ingest
# Fails if a module is missing, and compiles the imported modules: nothing writes bytecode later.
RUN /opt/venv/bin/python -c "import ingest.__main__, ingest.pipeline, ingest.server, chassis.serving, vectorstore.stores.chroma, \
    ingest.loaders, ingest.sources.folder, ingest.sources.s3, ingest.sources.sitemap, ingest.sources.uploads, \
    uvicorn.protocols.http.httptools_impl, uvicorn.lifespan.off, \
    opentelemetry.exporter.otlp.proto.grpc.trace_exporter, \
    opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace.export; \
    assert '.pdf' in ingest.loaders.LOADERS.suffixes"

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
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "ingest"]
LABEL org.opencontainers.image.title="kserve-rag-ingest" \
      org.opencontainers.image.description="Documents to an index version: the ingest Job and service of a KServe graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The kserve-rag authors" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"
