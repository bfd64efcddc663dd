# A stand-in for the public Prometheus image, built from Debian's package. For tests where no registry is reachable.
ARG BASE_IMAGE=localhost/swaptier-standin-python:3.13
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /prometheus \
    && chown 65534:65534 /prometheus

# The user, the folders and the entry point of the public image, so that compose.yaml fits both.
USER 65534:65534
VOLUME ["/prometheus"]
WORKDIR /prometheus
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
