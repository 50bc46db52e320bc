# The image of corpus jobs: snac-bulk and Ray, for every node of a cluster and for a KubeRay job
# (docker/chart). CPU by default; for NVIDIA GPUs, build with --build-arg TORCH_INDEX= (empty).
# --build-arg EXTRAS=media adds FFmpeg's readers. Its layers are those of docker/service.Dockerfile.
#
#   docker build --file docker/bulk.Dockerfile --tag snac-bulk .
#   docker run --init --shm-size 2g --volume ./recordings:/corpus:ro --volume ./tokens:/tokens \
#       snac-bulk encode /corpus --output /tokens

FROM python:3.11-slim AS requirements
ARG EXTRAS=
WORKDIR /src
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py bulk $EXTRAS > requirements.txt \
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

FROM dependencies AS slim
COPY docker/slim.py ./
RUN python slim.py \
    && python -c "import torch, numpy, soundfile, soxr, safetensors.torch, huggingface_hub, \
pyarrow.parquet, pyarrow.fs, fsspec, braceexpand, ray, ray.scripts.scripts, \
ray.dashboard.dashboard, ray.job_submission"

# As in the service's image.
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
COPY bulk bulk
# What the removed commands need is not in this image.
RUN pip install --no-deps --compile --prefix /code . \
    && rm /code/bin/snac-service /code/bin/snac-trainer

FROM python:3.11-slim
# KubeRay probes its pods with wget, and starts Ray in a login shell, which sets a PATH of its own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && echo 'export PATH=/opt/snac/bin:$PATH' > /etc/profile.d/snac.sh
# The same user id in every image of this project: they share the model store's volume.
RUN groupadd --gid 10001 snac && useradd --uid 10001 --gid 10001 --create-home snac \
    && install --directory --owner snac --group snac /home/snac/.cache
COPY --from=slim /opt/snac /opt/snac
COPY --from=kernels /kernels /opt/snac/lib/python3.11/site-packages/snac_core/kernels
COPY --from=code /code /opt/snac
# Ray reports nothing to its makers.
ENV PATH=/opt/snac/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
WORKDIR /home/snac
ENTRYPOINT ["snac-bulk"]
CMD ["--help"]
