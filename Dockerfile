# The service on a CPU with the demonstration bundle, on an NVIDIA GPU, with a bundle, and with a checkpoint:
#   docker build -t swin-serve .
#   docker build -t swin-serve:gpu --target gpu .
#   docker build -t swin-serve --build-context bundle=./my-bundle .
#   docker build -t swin-serve --build-arg CHECKPOINT=./my-fine-tune .
#   docker run --rm -p 8000:8000 swin-serve
# The export tool, on the files of the current folder:
#   docker build -t swin-export --target export .
#   docker run --rm -v "$PWD:/work" -w /work --user "$(id -u):$(id -g)" swin-export build ./my-fine-tune ./my-bundle

ARG PYTHON=3.11-slim
# The checkpoint that the build exports: a path in the build context, or a hub id. Without it, the image has the
# demonstration bundle, or that of `--build-context bundle=…`.
ARG CHECKPOINT

FROM python:${PYTHON} AS base
# ONNX Runtime sends telemetry unless it is disabled.
ENV ORT_DISABLE_TELEMETRY=1

# Wheels that pip finds beside those of the index, for a build without internet: `--build-context wheels=DIR`.
FROM scratch AS wheels

# The stages that install. No image is made of them, except of `export`.
FROM base AS installer
# Silence two warnings of pip: it runs as root here, and the base image determines its version.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# 1980, the first year that a wheel can hold: the time of all files in the layers of the service.
ENV SOURCE_DATE_EPOCH=315532800
WORKDIR /source

# The requirements of each image, as text. A change of this text reinstalls the dependencies; a change of a source
# does not.
FROM installer AS requirements
# What a setting or a variable turns on in the service. Without gRPC and OpenTelemetry, the image is smaller.
ARG EXTRAS="grpc otel"
COPY pyproject.toml docker/requirements.py ./
# hadolint ignore=SC2086
RUN python requirements.py cpu ${EXTRAS} >/cpu.txt && \
    python requirements.py gpu ${EXTRAS} >/gpu.txt && \
    python requirements.py cpu export >/export.txt

# A virtual environment without pip. The next stages add the dependencies and the service.
FROM installer AS environment
COPY --chmod=555 docker/layer.sh /usr/local/bin/layer
RUN python -m venv --without-pip /opt/swin-serve

# Without the tests of the packages, and without ONNX Runtime's library for programs in C, which Python does not load.
FROM environment AS cpu-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/cpu.txt,target=/requirements.txt \
    --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/swin-serve/bin/python install --no-compile --find-links /wheels \
        --constraint /constraints.txt --requirement /requirements.txt && \
    find /opt/swin-serve \( -name tests -o -name 'libonnxruntime.so.*' \) -prune -exec rm -r {} + && \
    layer /opt/swin-serve

# pip also installs CUDA and cuDNN. The host needs only NVIDIA's driver and container toolkit.
FROM environment AS gpu-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,source=constraints-gpu.txt,target=/constraints-gpu.txt \
    --mount=type=bind,from=requirements,source=/gpu.txt,target=/requirements.txt \
    --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/swin-serve/bin/python install --no-compile --find-links /wheels \
        --constraint /constraints.txt --constraint /constraints-gpu.txt --requirement /requirements.txt && \
    find /opt/swin-serve -name tests -prune -exec rm -r {} + && \
    layer /opt/swin-serve

# The wheel of swin-serve, in /wheel and installed.
FROM environment AS program
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY model_export model_export
# constraints.txt has the version of setuptools, and the wheel has that of swin-serve.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=wheels,target=/wheels \
    pip install --find-links /wheels --constraint /constraints.txt setuptools && \
    pip wheel --no-build-isolation --no-deps --wheel-dir /wheel . && \
    pip --python /opt/swin-serve/bin/python install --no-compile --no-deps --no-index --find-links /wheel swin-serve
COPY --chmod=555 docker/healthcheck.py /opt/swin-serve/bin/swin-healthcheck
RUN layer /opt/swin-serve

# The bytecode of Python's standard library, which its image does not have.
FROM environment AS bytecode
RUN library="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" && \
    python -m compileall -q -f --invalidation-mode unchecked-hash \
        -x '/(ensurepip|idlelib|lib2to3|site-packages|test|tkinter)/' "${library}" && \
    mkdir /layer && \
    find "${library}" -name site-packages -prune -o -name '*.pyc' -exec cp --parents --target-directory /layer {} + && \
    layer

# Checkpoint → bundle. The only stage with torch. The service takes only the bundle from it.
FROM installer AS export
# torch's default build installs gigabytes of CUDA that the export does not use. Set this to an index of CPU builds.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=requirements,source=/export.txt,target=/requirements.txt \
    --mount=type=bind,from=wheels,target=/wheels \
    pip install --find-links /wheels --constraint /constraints.txt --requirement /requirements.txt
# hadolint ignore=DL3013
RUN --mount=type=bind,from=program,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-deps --no-index --find-links /wheel swin-serve
# The tool runs as any user and writes only to /tmp. Mount a folder at HF_HOME to keep downloads from the hub.
ENV HOME=/tmp HF_HOME=/tmp/huggingface HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
ENTRYPOINT ["swin-export"]

FROM export AS exporter
ARG CHECKPOINT
# Options of `swin-export build`, such as `--precision int8`.
ARG EXPORT_OPTIONS
# Root can read the checkpoint, whatever the modes of its files. No image is made of this stage.
# hadolint ignore=DL3002
USER 0:0
WORKDIR /context
# A private repository of the hub needs a token: `--secret id=HF_TOKEN`.
# hadolint ignore=SC2086
RUN --mount=type=bind,target=/context \
    --mount=type=cache,target=/tmp/huggingface \
    --mount=type=secret,id=HF_TOKEN \
    HF_TOKEN_PATH=/run/secrets/HF_TOKEN swin-export build "${CHECKPOINT}" /bundle ${EXPORT_OPTIONS}

FROM scratch AS exported-bundle
COPY --from=exporter /bundle /

FROM scratch AS bundle
COPY app/demo_bundle /

# One of the two stages above, which have no tag.
# hadolint ignore=DL3006
FROM ${CHECKPOINT:+exported-}bundle AS served-bundle

# Owned by root and readable by all users, whatever the modes of the source: the service cannot change its bundle.
FROM environment AS bundle-layer
COPY --from=served-bundle --chmod=555 / /bundle
RUN layer /bundle

# All that `cpu` and `gpu` share. Only COPY makes layers of the service, and --link makes each of them independent of the
# others, so that an update pulls what has changed.
FROM base AS runtime
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="swin-serve" \
      org.opencontainers.image.description="A Swin Transformer image classifier behind HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --link --from=bytecode /layer/ /
COPY --link --from=bundle-layer /layer/ /
COPY --link --from=program /layer/ /
# A published port does not reach 127.0.0.1 of a container.
ENV PATH=/opt/swin-serve/bin:$PATH SWIN_BUNDLE=/bundle SWIN_HOST=0.0.0.0 SWIN_PORT=8000
# A number, so that Kubernetes' runAsNonRoot can verify that the user is not root.
USER 10001:10001
EXPOSE 8000
# Every second during the start, so that dependent services start early. A large model can take two minutes to warm up.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=120s --start-interval=1s \
    CMD ["swin-healthcheck"]
# Exec form, without a shell: SIGTERM reaches the service, which drains and exits with 0.
ENTRYPOINT ["swin-serve"]

FROM runtime AS gpu
# Without CUDA, the start fails: a service for a GPU does not serve on the CPU.
ENV SWIN_DEVICE=cuda
COPY --link --from=gpu-packages /layer/ /

FROM runtime AS cpu
COPY --link --from=cpu-packages /layer/ /
