# Build: `docker build -t fumage-proxy .`   Run: see README, "In Docker".
# Not the slim one: the data path is compiled, with the C compiler that this one has.
FROM python:3.13 AS build
WORKDIR /src
COPY requirements.lock pyproject.toml setup.py README.md LICENSE ./
# The lock file's first part is what runs; what tests and checks need comes after its marker, and last what
# builds the wheel, which stays in this stage.
RUN python -m venv --without-pip /opt/fumage-proxy \
    && sed '/^# Tests and checks/,$d' requirements.lock > run.lock \
    && sed -n -e '/^typing-extensions==/,/[^\\]$/p' -e '/^# Builds the wheel/,$p' requirements.lock > build.lock \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r build.lock \
    && pip --python /opt/fumage-proxy/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r run.lock
COPY proxy/ proxy/
# The venv gets no pip of its own; the one that python's image has lies unused beside it.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/fumage-proxy/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && ls /opt/fumage-proxy/lib/python*/site-packages/fumage_proxy__mypyc.*.so

FROM python:3.13-slim
COPY --from=build /opt/fumage-proxy /opt/fumage-proxy
ENV PATH=/opt/fumage-proxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes' runAsNonRoot can be sure of it. Nothing is written: a read-only root works.
USER 10001:10001
WORKDIR /
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s CMD ["fumage-proxy", "health"]
ENTRYPOINT ["fumage-proxy"]
CMD ["serve"]
