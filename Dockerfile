# A captioner over HTTP, for the CPU:
#
#     docker build -t jaxcap .
#     docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 jaxcap
#
# Options of `jaxcap serve` may follow, and a volume may hold a model:
#
#     docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 \
#       -v ./model.safetensors:/model.safetensors:ro jaxcap --model /model.safetensors

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY jaxcap jaxcap
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[serve]"
# Nothing is written but caches, below the home directory; without a writable one there are none.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=180s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["jaxcap", "serve", "--host", "0.0.0.0"]
