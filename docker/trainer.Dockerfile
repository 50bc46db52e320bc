# The trainer image: snac-trainer with everything it needs to compile its kernels. CPU by default;
# for NVIDIA GPUs, build with --build-arg TORCH_INDEX= (empty). --build-arg EXTRAS=media adds
# FFmpeg's readers. Its layers are those of docker/service.Dockerfile.
#
#   docker build --file docker/trainer.Dockerfile --tag snac-trainer .
#   docker run --init --volume ./dataset:/data:ro --volume models:/models snac-trainer train --help

FROM python:3.11-slim AS requirements
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py train $EXTRAS > requirements.txt \
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

# torch.compile reads torch's headers, and setuptools finds its compiler.
FROM dependencies AS slim
COPY docker/slim.py ./
RUN python slim.py headers setuptools \
    && python -c "import torch._dynamo, torch._inductor.compile_fx, torch.distributed, torchdata, \
numpy, soundfile, soxr, safetensors.torch, huggingface_hub, pystoi, tensorboard, pyarrow.parquet, \
webdataset, matplotlib.pyplot, jinja2, pyloudnorm, torch.utils.tensorboard"

FROM dependencies AS code
COPY pyproject.toml README.md LICENSE ./
COPY snac_core snac_core
COPY trainer trainer
# What the removed commands need is not in this image.
RUN pip install --no-deps --compile --prefix /code . \
    && rm /code/bin/snac-service /code/bin/snac-bulk

FROM python:3.11-slim
# torch.compile builds its kernels with a C++ compiler. Its messages in other languages and its
# optimizer of whole programs are left out.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* /usr/share/locale /usr/share/doc /usr/lib/gcc/*/*/lto1
# The same user id in every image of this project: they share the model store's volume.
RUN groupadd --gid 10001 snac && useradd --uid 10001 --gid 10001 --create-home snac \
    && install --directory --owner snac --group snac /data /models /runs /home/snac/.cache
COPY --from=slim /opt/snac /opt/snac
COPY --from=code /code /opt/snac
ENV PATH=/opt/snac/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/snac
VOLUME ["/models", "/runs"]
ENTRYPOINT ["snac-trainer"]
CMD ["--help"]
