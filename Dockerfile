# The service, and with other words the scheduler and the workers of its cluster: docs/how-to/deploy.md.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# extras of geoseg, and options of pip for torch alone, such as an index with builds for machines without a GPU
ARG EXTRAS=serve
ARG TORCH_OPTIONS=""

# rasterio's wheels take this library from the system
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libexpat1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home geoseg \
 && install --directory --owner geoseg --group geoseg /srv/maps
WORKDIR /opt/geoseg
COPY constraints.txt ./
RUN pip install --constraint constraints.txt $TORCH_OPTIONS torch
COPY pyproject.toml README.md LICENSE ./
COPY geoseg ./geoseg
RUN pip install --constraint constraints.txt ".[$EXTRAS]"

USER geoseg
WORKDIR /srv/maps
EXPOSE 8080
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["geoseg"]
CMD ["serve", "--config", "/etc/geoseg/service.yaml"]
