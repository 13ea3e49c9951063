# syntax=docker/dockerfile:1
# All of Tidemark's commands in one image: `docker build -t tidemark .`, then docker-compose.yml runs it.

FROM python:3.11.13-slim-bookworm AS build
# A build of torch without CUDA, which would be some 5 GB more.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/tidemark
ENV PATH=/opt/tidemark/bin:$PATH
RUN pip install --index-url "$TORCH_INDEX" torch==2.13.0
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY flows flows
COPY feature_repo feature_repo
COPY online_model online_model
COPY replay replay
COPY tidemark.py .
RUN pip install --constraint constraints.txt '.[model,s3]'

FROM python:3.11.13-slim-bookworm
# Whoever mounts something else at these two gives it to this user.
RUN useradd --uid 10001 --user-group --create-home tidemark \
    && install -d -o tidemark -g tidemark /data /home/tidemark/.cache
COPY --from=build /opt/tidemark /opt/tidemark
ENV PATH=/opt/tidemark/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/home/tidemark TIDEMARK_DATA=/data
WORKDIR /home/tidemark
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidemark"]
CMD ["--help"]
