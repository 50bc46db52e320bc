# The service image. CPU by default; for NVIDIA GPUs, build with --build-arg TORCH_INDEX= (empty):
# PyPI's torch then comes with its own CUDA libraries, and the host needs only the driver and the
# NVIDIA container toolkit.
#
#   docker build --file docker/service.Dockerfile --tag snac-service .
#   docker run --publish 127.0.0.1:8000:8000 --volume models:/models \
#       --env SNAC_API_KEY=... snac-service
#
# --build-arg EXTRAS=media adds the decoder of what libsndfile does not read (docs/audio.md; its
# wheel contains GPL codecs).
#
# Without a key it does not start, unless SNAC_ALLOW_ANONYMOUS=true or the port is published on
# loopback and SNAC_PUBLISHED_HOST=127.0.0.1 says so.
#
# Dependencies, kernels and code are layers of their own: a change of code makes one new layer, of a
# few megabytes, and compiles nothing.

FROM python:3.11-slim AS requirements
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py tracing $EXTRAS > requirements.txt \
    && grep '^torch==' constraints.txt > torch.txt

FROM python:3.11-slim AS dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/snac
ENV PATH=/opt/snac/bin:$PATH
WORKDIR /src
COPY --from=requirements /src/torch.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-compile --no-deps --index-url "$TORCH_INDEX" --requirement torch.txt; \
    fi
COPY --from=requirements /src/requirements.txt /src/constraints.txt ./
RUN pip install --no-compile -c constraints.txt -r requirements.txt

# Byte code is kept of what a start imports, and of nothing else.
FROM dependencies AS slim
COPY docker/slim.py ./
RUN python slim.py \
    && python -c "import torch, numpy, soundfile, soxr, safetensors.torch, huggingface_hub, pystoi, \
fastapi, uvicorn, uvloop, httptools, pydantic_settings, prometheus_client, python_multipart, structlog, \
httpx, websockets, limits, orjson, msgpack, opentelemetry.instrumentation.fastapi, \
opentelemetry.exporter.otlp.proto.http.trace_exporter"

# Keyed to what decides the kernels: their source, torch and how they are built.
FROM python:3.11-slim AS kernels
RUN apt-get update && apt-get install --yes --no-install-recommends g++
ENV PATH=/opt/snac/bin:$PATH
WORKDIR /src
COPY snac_core/__init__.py snac_core/errors.py snac_core/types.py snac_core/
COPY snac_core/utils/__init__.py snac_core/utils/atomic_files.py snac_core/utils/
COPY snac_core/kernels/__init__.py snac_core/kernels/build.py snac_core/kernels/cache.py \
    snac_core/kernels/cpu.cpp snac_core/kernels/training.cpp snac_core/kernels/
RUN --mount=type=bind,from=dependencies,source=/opt/snac,target=/opt/snac \
    mkdir /kernels && python -m snac_core.kernels.build /kernels

FROM dependencies AS code
COPY pyproject.toml README.md LICENSE ./
COPY snac_core snac_core
COPY service service
# What the removed commands need is not in this image.
RUN pip install --no-deps --compile --prefix /code . \
    && rm /code/bin/snac-trainer /code/bin/snac-bulk

FROM python:3.11-slim
# The same user id in every image of this project: they share the model store's volume.
RUN groupadd --gid 10001 snac && useradd --uid 10001 --gid 10001 --create-home snac \
    && install --directory --owner snac --group snac /models /home/snac/.cache
COPY --from=slim /opt/snac /opt/snac
COPY --from=kernels /kernels /opt/snac/lib/python3.11/site-packages/snac_core/kernels
COPY --from=code /code /opt/snac
ENV PATH=/opt/snac/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SNAC_MODEL_STORE=/models
# By number: Kubernetes cannot tell that a name is not root.
USER 10001:10001
WORKDIR /home/snac
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
CMD ["snac-service", "--host", "0.0.0.0", "--port", "8000"]
