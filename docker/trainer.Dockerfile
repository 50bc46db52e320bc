# The trainer image: snac-trainer with everything it needs to compile its kernels. CPU by default;
# for NVIDIA GPUs, build with --build-arg TORCH_INDEX= (empty).
#
#   docker build --file docker/trainer.Dockerfile --tag snac-trainer .
#   docker run --init --volume ./dataset:/data:ro --volume models:/models snac-trainer train --help

FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/snac
ENV PATH=/opt/snac/bin:$PATH
WORKDIR /src

# Dependencies before code: a change of code leaves these layers cached.
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py train > requirements.txt
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; \
    fi
RUN pip install -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY snac_core snac_core
COPY service service
COPY trainer trainer
COPY bulk bulk
RUN pip install -c constraints.txt ".[train]"

FROM python:3.11-slim
# torch.compile builds its kernels with a C++ compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The same user id in every image of this project: they share the model store's volume.
RUN useradd --uid 10001 --create-home snac \
    && install --directory --owner snac --group snac /data /models /runs /home/snac/.cache
COPY --from=build /opt/snac /opt/snac
ENV PATH=/opt/snac/bin:$PATH \
    PYTHONUNBUFFERED=1
USER snac
WORKDIR /home/snac
VOLUME ["/models", "/runs"]
ENTRYPOINT ["snac-trainer"]
CMD ["--help"]
