# The service: docker build -t stsa .  &&  docker run -p 7860:7860 stsa
# For a GPU:   docker build -t stsa --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .  &&  docker run --gpus all -p 7860:7860 stsa
# Commands:    docker run --user "$(id -u)" -v "$PWD:/work" -w /work stsa dub me.mp4 speech.wav -o out.mp4

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
# The index that PyTorch is taken from: without CUDA, or that of a CUDA version, whose libraries come with it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch torchvision --index-url ${TORCH_INDEX}
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[app,hub]" && useradd --create-home --uid 1000 stsa
USER stsa
WORKDIR /home/stsa
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/v1/health', timeout=4)"]
ENTRYPOINT ["stsa"]
CMD ["app", "--host", "0.0.0.0"]
