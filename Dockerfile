# secura on a CPU. For a GPU, start from an image with CUDA's PyTorch and leave out the first RUN.
#   docker build --tag secura .
#   docker run --rm --volume "$PWD:/work" secura train --data mine.jsonl
FROM python:3.12-slim

# A CPU build of PyTorch, which is a tenth of the size of the one with CUDA.
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' /tmp/constraints.txt)"

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt '/src[cli,trl]' && rm -r /src

# Runs, rows and models are the user's own: nothing is written as root, and the cache lies in the folder that is mounted.
RUN useradd --create-home secura && mkdir /work && chown secura /work
USER secura
WORKDIR /work
ENV OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false XDG_CACHE_HOME=/work/.cache HF_HOME=/work/.cache/huggingface
RUN secura --help >/dev/null
ENTRYPOINT ["secura"]
CMD ["--help"]
