# The README's first command as an image: the build installs, the container runs.
#
#   docker build -t alexnet_exp .
#   docker run --rm -v "$PWD/outputs:/home/user/alexnet_exp/outputs" alexnet_exp model=lrn seed=2
#
# The folder outputs/ must be writable by user 1000. For a GPU add `--gpus all`, for data workers `--ipc=host`.
# Without a GPU, PyTorch's CPU build makes the image some 5 GB smaller:
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu -t alexnet_exp .
FROM python:3.13-slim-trixie

# The kernels in C are compiled when they are first used; trainer.compile needs the C++ compiler.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends g++ \
  && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 user \
  && install -d -o user -g user /home/user/alexnet_exp /home/user/alexnet_exp/outputs
USER 1000
WORKDIR /home/user/alexnet_exp
COPY --chown=user:user pyproject.toml README.md LICENSE ./
COPY --chown=user:user alexnet_exp alexnet_exp
COPY --chown=user:user conf conf
COPY --chown=user:user hydra_plugins hydra_plugins

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
RUN python3 -m venv .venv && . .venv/bin/activate && pip install -e .

ENV PATH=/home/user/alexnet_exp/.venv/bin:$PATH
ENTRYPOINT ["python", "-m", "alexnet_exp"]
