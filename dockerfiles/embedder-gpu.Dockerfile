# The embedder on GPUs: Triton from its wheel, with BGE-M3 on FlagEmbedding and torch, which bring CUDA. The driver
# comes from the node. This project has not run it on a GPU.
# Build in the root of the repository: docker build -f dockerfiles/embedder-gpu.Dockerfile .
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
WORKDIR /build
COPY locks/uv.txt locks/embedder-gpu.txt locks/
RUN python -m venv /uv && /uv/bin/pip install --require-hashes --only-binary :all: -r locks/uv.txt
RUN /uv/bin/uv venv --python /usr/local/bin/python3.11 /opt/venv \
 && /uv/bin/uv pip sync --python /opt/venv --require-hashes --only-binary :all: locks/embedder-gpu.txt \
 && echo /opt/kserve-rag > /opt/venv/lib/python3.11/site-packages/kserve-rag.pth
# Triton at its default path, with the stub of this Python only.
RUN mv /opt/venv/lib/python3.11/site-packages/pytriton/tritonserver /opt/tritonserver \
 && mv /opt/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub /opt/tritonserver/backends/python/ \
 && rm -r /opt/tritonserver/python_backend_stubs
COPY embedder /opt/kserve-rag/embedder
# Fails if a module is missing, and compiles the imported modules: nothing writes bytecode later. Modules that run only
# inside Triton are compiled without an import.
RUN /opt/venv/bin/python -c "import embedder.encoders.flag_embedding, embedder.encoders.bge_m3" \
 && /opt/venv/bin/python -m compileall -q /opt/kserve-rag /opt/tritonserver/backends/python

FROM python:3.11.14-slim-bookworm
# The base image has no bytecode of the standard library, and a pod could not keep what it compiles.
RUN rm -rf /usr/local/lib/python3.11/site-packages/* /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* \
 && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.11 \
 && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kserve-rag
COPY --from=build /opt /opt
# Triton's Python models use the environment whose python is first on the PATH.
ENV PATH=/opt/venv/bin:/opt/tritonserver/bin:$PATH \
    LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/nvidia_pytriton.libs:/usr/local/lib \
    HOME=/tmp USER=kserve-rag PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/kserve-rag
USER 10001:10001
EXPOSE 8080 9000 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["tritonserver"]
# Closes the APIs that load code, map memory and write files: no header can hold the line break of the key.
CMD ["--model-repository=/opt/kserve-rag/embedder/model_repository", "--model-control-mode=explicit", "--load-model=bge_m3", \
     "--disable-auto-complete-config", "--http-port=8080", "--grpc-port=9000", "--metrics-port=8002", "--exit-timeout-secs=60", \
     "--http-restricted-api=model-repository,shared-memory,trace,logging:key=closed\n", \
     "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:key=closed\n"]
LABEL org.opencontainers.image.title="kserve-rag-embedder-gpu" \
      org.opencontainers.image.description="Texts to embeddings: Triton with BGE-M3 on FlagEmbedding and CUDA" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The kserve-rag authors" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"
