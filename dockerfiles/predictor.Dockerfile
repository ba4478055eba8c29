# The LLM on GPUs: NVIDIA's Triton with TensorRT-LLM and a user that is not root. Nothing is built or installed, so there
# is one stage. This project has not built it or run it on a GPU.
# Build in the root of the repository: docker build -f dockerfiles/predictor.Dockerfile .
FROM nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3
# The model that the manifests serve. Fails if this version of the image has it elsewhere.
RUN test -f /app/all_models/llmapi/tensorrt_llm/1/model.py \
 && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kserve-rag
ENV HOME=/tmp USER=kserve-rag PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["tritonserver"]
# Closes the APIs that load code, map memory and write files: no header can hold the line break of the key.
CMD ["--model-repository=/app/all_models/llmapi", "--model-control-mode=explicit", "--load-model=tensorrt_llm", \
     "--http-port=8080", "--allow-grpc=false", "--metrics-port=8002", "--exit-timeout-secs=60", \
     "--http-restricted-api=model-repository,shared-memory,trace,logging:key=closed\n"]
LABEL org.opencontainers.image.title="kserve-rag-predictor" \
      org.opencontainers.image.description="Prompts to tokens: Triton with TensorRT-LLM's Python model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The kserve-rag authors" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"
