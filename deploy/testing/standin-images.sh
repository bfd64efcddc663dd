#!/bin/sh
# Makes stand-ins for the public base images, so that `make test-containers` can run where no registry is reachable.
#
#   PYTHON_IMAGE      localhost/swaptier-standin-python:3.13    Debian 13 with its own Python 3.13
#   PROMETHEUS_IMAGE  localhost/swaptier-standin-prometheus:2   the same with Debian's prometheus package
#
# Needs: root, podman, debootstrap, a Debian mirror (DEBIAN_MIRROR, or debootstrap's default).
# There is no stand-in for Grafana: Debian does not have it. The dashboard is proved against Prometheus instead
# (tests/deploy/test_dashboard_live.py).
#
# A certificate bundle named by PIP_CERT goes into the image, so that pip in a build trusts what pip here trusts. The
# Dockerfiles know nothing of it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
suite=${DEBIAN_SUITE:-trixie}
python_image=${PYTHON_IMAGE:-localhost/swaptier-standin-python:3.13}
prometheus_image=${PROMETHEUS_IMAGE:-localhost/swaptier-standin-prometheus:2}
# As sd_booted(3) tells: without systemd, podman's defaults do not work.
[ -d /run/systemd/system ] || export CONTAINERS_CONF="${CONTAINERS_CONF:-$here/containers.conf}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

if podman image exists "$python_image"; then
    echo "$python_image is there"
else
    # The mirror is an optional third argument: left out, debootstrap takes its own.
    debootstrap --variant=minbase --include=ca-certificates,python3-minimal,python3-venv \
        "$suite" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    # The official image has its interpreter here, and a virtual environment remembers where it came from.
    ln -s /usr/bin/python3 "$root/usr/local/bin/python3"
    ln -s /usr/bin/python3 "$root/usr/local/bin/python"
    set -- --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin'
    if [ -n "${PIP_CERT:-}" ]; then
        cp "$PIP_CERT" "$root/usr/local/share/pip-certificates.pem"
        set -- "$@" --change 'ENV PIP_CERT=/usr/local/share/pip-certificates.pem'
    fi
    tar -C "$root" -c . | podman import "$@" - "$python_image"
fi

podman image exists "$prometheus_image" && { echo "$prometheus_image is there"; exit 0; }
podman build --format docker --network host --build-arg "BASE_IMAGE=$python_image" \
    --file "$here/prometheus.Dockerfile" --tag "$prometheus_image" "$here"
