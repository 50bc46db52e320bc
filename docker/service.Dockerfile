# The service image. CPU by default; for NVIDIA GPUs, build with --build-arg TORCH_INDEX= (empty):
# PyPI's torch then comes with its own CUDA libraries, and the host needs only the driver and the
# NVIDIA container toolkit.
#
#   docker build --file docker/service.Dockerfile --tag snac-service .
#   docker run --publish 127.0.0.1:8000:8000 --volume models:/models \
#       --env SNAC_API_KEY=... snac-service
#
# --build-arg EXTRAS=media adds the decoder of what libsndfile does not read (docs/audio.md; its
# wheel contains GPL codecs), EXTRAS="media tracing" two extras.
#
# Without a key it does not start, unless SNAC_ALLOW_ANONYMOUS=true or the port is published on
# loopback and SNAC_PUBLISHED_HOST=127.0.0.1 says so.

FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/snac
ENV PATH=/opt/snac/bin:$PATH
WORKDIR /src

# Dependencies before code: a change of code leaves these layers cached.
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py $EXTRAS > requirements.txt
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi
RUN pip install -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY snac_core snac_core
COPY service service
COPY trainer trainer
COPY bulk bulk
RUN pip install -c constraints.txt .
# The image itself has no compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && cd / && python -m snac_core.kernels.build

FROM python:3.11-slim
# The same user id in every image of this project: they share the model store's volume.
RUN useradd --uid 10001 --create-home snac \
    && install --directory --owner snac --group snac /models /home/snac/.cache
COPY --from=build /opt/snac /opt/snac
ENV PATH=/opt/snac/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SNAC_MODEL_STORE=/models
USER snac
WORKDIR /home/snac
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
CMD ["snac-service", "--host", "0.0.0.0", "--port", "8000"]
