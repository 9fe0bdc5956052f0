# The service with the demonstration bundle, with another bundle, or with a checkpoint that the build exports:
#   docker build -t swin-serve .
#   docker build -t swin-serve --build-context bundle=./my-bundle .
#   docker build -t swin-serve --build-context checkpoint=./my-fine-tune --build-arg BUNDLE=export .
#   docker run --rm -p 8000:8000 swin-serve
# The export tool, on the files of the current folder:
#   docker build -t swin-export --target export .
#   docker run --rm -v "$PWD:/work" -w /work --user "$(id -u):$(id -g)" swin-export build ./my-fine-tune ./my-bundle

ARG PYTHON=3.11-slim
# The bundle to serve, unless `--build-context bundle=…` replaces it: demo or export.
ARG BUNDLE=demo

FROM python:${PYTHON} AS base
# ONNX Runtime sends telemetry unless it is disabled.
ENV ORT_DISABLE_TELEMETRY=1
# Silence two warnings of pip: it runs as root here, and the base image determines its version.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# The requirements of each image, as text. A change of this text reinstalls the dependencies; a change of a source
# does not.
FROM base AS requirements
# cpu or gpu. With gpu, pip installs CUDA and cuDNN, and the host needs only NVIDIA's driver and container toolkit.
ARG ONNXRUNTIME=cpu
WORKDIR /source
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py ${ONNXRUNTIME} grpc otel >/runtime.txt && python requirements.py cpu export >/export.txt

# The wheel of swin-serve, built once and installed in both images.
FROM base AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model_export model_export
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheel .

# Checkpoint → bundle. The only stage with torch. The service takes only the bundle from it.
FROM base AS export
# torch's default build installs gigabytes of CUDA that the export does not use. Set this to an index of CPU builds.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/export.txt,target=/requirements.txt \
    pip install --constraint /constraints.txt --requirement /requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-deps /wheel/*.whl
# The tool runs as any user and writes only to /tmp. Mount a folder at HF_HOME to keep downloads from the hub.
ENV HOME=/tmp HF_HOME=/tmp/huggingface HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
ENTRYPOINT ["swin-export"]

# An empty stage that `--build-context checkpoint=…` replaces.
FROM scratch AS checkpoint

FROM export AS bundle-exporter
ARG NAME=checkpoint
# Root can read the checkpoint, whatever the modes of its files. No image is made of this stage.
# hadolint ignore=DL3002
USER 0:0
RUN --mount=type=bind,from=checkpoint,target=/checkpoint \
    swin-export build /checkpoint /bundle --name "${NAME}"

FROM scratch AS bundle-export
COPY --from=bundle-exporter /bundle /

FROM scratch AS bundle-demo
COPY app/demo_bundle /

# The bundle to serve. `--build-context bundle=…` replaces this stage. It begins with one of the two stages above, which
# have no tag.
# hadolint ignore=DL3006
FROM bundle-${BUNDLE} AS bundle

FROM base AS runtime
LABEL org.opencontainers.image.title="swin-serve" \
      org.opencontainers.image.description="A Swin Transformer image classifier behind HTTP." \
      org.opencontainers.image.licenses="Apache-2.0"
# Layers are ordered from the least to the most frequent change, so that an update pulls few of them.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/runtime.txt,target=/requirements.txt \
    pip install --constraint /constraints.txt --requirement /requirements.txt
# Owned by root and readable by all users, whatever the modes of the source: the service cannot change its bundle.
COPY --from=bundle --chmod=555 / /bundle
COPY --chmod=555 docker/healthcheck.py /usr/local/bin/swin-healthcheck
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-deps /wheel/*.whl
# A published port does not reach 127.0.0.1 of a container.
ENV SWIN_BUNDLE=/bundle SWIN_HOST=0.0.0.0 SWIN_PORT=8000
# A number, so that Kubernetes' runAsNonRoot can verify that the user is not root.
USER 10001:10001
EXPOSE 8000
# Every second during the start, so that dependent services start early. A large model can take two minutes to warm up.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=120s --start-interval=1s \
    CMD ["swin-healthcheck"]
# The last layers, so that another revision installs nothing again: --build-arg REVISION="$(git rev-parse HEAD)".
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Exec form, without a shell: SIGTERM reaches the service, which drains and exits with 0.
ENTRYPOINT ["swin-serve"]
