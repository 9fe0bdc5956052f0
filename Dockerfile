# The service, with the demonstration bundle; with a bundle; with a checkpoint, exported here:
#   docker build -t swin-serve .
#   docker build -t swin-serve --build-context bundle=./my-bundle .
#   docker build -t swin-serve --build-context checkpoint=./my-fine-tune --build-arg BUNDLE=export .
#   docker run --rm -p 8000:8000 swin-serve
# The export as a tool, on the files of the current folder:
#   docker build -t swin-export --target export .
#   docker run --rm -v "$PWD:/work" -w /work --user "$(id -u):$(id -g)" swin-export build ./my-fine-tune ./my-bundle

ARG PYTHON=3.11-slim
# What `--build-context bundle=…` does not decide: demo, or export.
ARG BUNDLE=demo

FROM python:${PYTHON} AS base
# ONNX Runtime's builds report their use to their maker unless told not to.
ENV ORT_DISABLE_TELEMETRY=1
# pip runs as root here, and its version is the base image's affair: neither is news.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# What each image needs, as text. Dependencies are installed anew when this text changes, and not when a source does.
FROM base AS requirements
# cpu, or gpu: CUDA and cuDNN then come with ONNX Runtime, and the host needs only NVIDIA's driver and container toolkit.
ARG ONNXRUNTIME=cpu
WORKDIR /source
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py ${ONNXRUNTIME} >/runtime.txt && python requirements.py cpu export >/export.txt

# The project itself, built once: both images install the very same wheel.
FROM base AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model_export model_export
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheel .

# Checkpoint → bundle. The only stage with torch; nothing of it reaches the service but the bundle.
FROM base AS export
# torch's default build brings gigabytes of CUDA, which the export has no use for: this may name an index of CPU builds.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/export.txt,target=/requirements.txt \
    pip install --constraint /constraints.txt --requirement /requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps /wheel/*.whl
# Works as any user, with nothing writable but /tmp; mount a folder at HF_HOME to keep what the hub sent.
ENV HOME=/tmp HF_HOME=/tmp/huggingface HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
ENTRYPOINT ["swin-export"]

# Stands in for the checkpoint until `--build-context checkpoint=…` replaces it.
FROM scratch AS checkpoint

FROM export AS bundle-exporter
ARG NAME=checkpoint
# Root reads the checkpoint whatever its files' modes are.
USER 0:0
RUN --mount=type=bind,from=checkpoint,target=/checkpoint \
    swin-export build /checkpoint /bundle --name "${NAME}"

FROM scratch AS bundle-export
COPY --from=bundle-exporter /bundle /

FROM scratch AS bundle-demo
COPY app/demo_bundle /

# The bundle that is served; `--build-context bundle=…` replaces this stage.
FROM bundle-${BUNDLE} AS bundle

FROM base AS runtime
LABEL org.opencontainers.image.title="swin-serve" \
      org.opencontainers.image.description="A Swin Transformer image classifier behind HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"
# From what changes least to what changes most, so that an update pulls little.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/runtime.txt,target=/requirements.txt \
    pip install --constraint /constraints.txt --requirement /requirements.txt
# Owned by root and readable by all, whatever the modes where it was built: the service cannot change what it serves.
COPY --from=bundle --chmod=555 / /bundle
COPY --chmod=555 docker/healthcheck.py /usr/local/bin/swin-healthcheck
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps /wheel/*.whl
# In a container, 127.0.0.1 would be reached by nobody.
ENV SWIN_BUNDLE=/bundle SWIN_HOST=0.0.0.0 SWIN_PORT=8000
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8000
# Often while it starts, so that what waits for it does not wait for the clock. A large model takes its time to warm up.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=120s --start-interval=1s \
    CMD ["swin-healthcheck"]
# No shell between: SIGTERM reaches the service, which drains and exits with 0.
ENTRYPOINT ["swin-serve"]
