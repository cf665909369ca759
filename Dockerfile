# The command, the flows, and what a Prefect worker needs: docker build -t styleclip-batch .
# TORCH is the index of torch's wheels; for GPUs: --build-arg TORCH=https://download.pytorch.org/whl/cu128
FROM python:3.11-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY styleclip_ops styleclip_ops
COPY manifests manifests
COPY tasks tasks
COPY flows flows
COPY demo demo
RUN pip install --no-cache-dir --extra-index-url "$TORCH" -c constraints.txt '.[dask,redis]' \
    && useradd --create-home styleclip
COPY prefect.yaml ./
COPY deploy deploy
USER styleclip
ENV OMP_WAIT_POLICY=passive PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
CMD ["styleclip", "--help"]
