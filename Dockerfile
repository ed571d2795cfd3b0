# Both engines on a GPU machine. Written, not built yet: that takes a machine with docker, and 30 GB of disk.
#   docker build -t parity-check .
#   docker run --gpus all --ipc host -v "$PWD:/work" -v /models:/models parity-check \
#       compare --model /models/mine --prompts prompts.jsonl \
#       --reference /opt/vllm-0.8.5/bin/python --candidate /opt/vllm-0.18.1/bin/python
FROM nvidia/cuda:12.8.1-devel-ubuntu22.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=ghcr.io/astral-sh/uv:0.8 /uv /usr/local/bin/uv
ENV UV_PYTHON_INSTALL_DIR=/opt/python UV_NO_CACHE=1

# As in engines/environment/recipes.toml: what 0.8.5 really works with.
RUN uv venv --python 3.12 /opt/vllm-0.8.5 \
    && uv pip install --python /opt/vllm-0.8.5 \
        'vllm==0.8.5.post1' 'transformers==4.51.3' 'numpy<2.3' 'setuptools<80'
RUN uv venv --python 3.12 /opt/vllm-0.18.1 \
    && uv pip install --python /opt/vllm-0.18.1 'vllm==0.18.1'

COPY . /src
RUN uv venv --python 3.12 /opt/parity-check \
    && uv pip install --python /opt/parity-check '/src[html]'

ENV PATH=/opt/parity-check/bin:$PATH
WORKDIR /work
ENTRYPOINT ["parity-check"]
CMD ["--help"]
