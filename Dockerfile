# syntax=docker/dockerfile:1
# The build container: platformctl, the agent it publishes, and the tools an operator needs beside them. `make` builds it,
# `./run.kube -e ENV` opens a shell in it.
#
# What is downloaded is checked against the digests below, which belong to the versions beside them: a new version needs its
# own, from the publisher's list (Terraform: terraform_VERSION_SHA256SUMS, signed; kubectl: the .sha256 file beside it).
# The base images are named by tag; pin one with --build-arg RUST_IMAGE=rust@sha256:… where the build must be repeatable.

# Everything in it is for linux/amd64, whatever the engine's own processor is: the machines' agent comes from here.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM --platform=linux/amd64 ${RUST_IMAGE} AS build
# aws-lc's C sources are compiled with cmake where no prepared build fits.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG CARGO_BUILD_JOBS
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    set -eu; \
    if [ -z "${CARGO_BUILD_JOBS:-}" ]; then unset CARGO_BUILD_JOBS; fi; \
    cargo build --locked --release -p ctl --bin platformctl; \
    make agent; \
    mkdir /out; \
    cp target/release/platformctl target/x86_64-unknown-linux-gnu/dist/platform-agent /out/

FROM --platform=linux/amd64 ${BASE_IMAGE} AS tools
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl unzip && rm -rf /var/lib/apt/lists/*
ARG TERRAFORM_VERSION=1.11.4
ARG TERRAFORM_SHA256=1ce994251c00281d6845f0f268637ba50c0005657eb3cf096b92f753b42ef4dc
ARG KUBECTL_VERSION=1.36.3
ARG KUBECTL_SHA256=ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336
WORKDIR /tools
RUN set -eu; \
    : "${TERRAFORM_SHA256:?give the digest of terraform_${TERRAFORM_VERSION}_linux_amd64.zip with --build-arg TERRAFORM_SHA256=...}"; \
    : "${KUBECTL_SHA256:?give the digest of kubectl ${KUBECTL_VERSION} (linux/amd64) with --build-arg KUBECTL_SHA256=...}"; \
    curl --fail --silent --show-error --location --proto '=https' --retry 3 --output terraform.zip \
      "https://releases.hashicorp.com/terraform/${TERRAFORM_VERSION}/terraform_${TERRAFORM_VERSION}_linux_amd64.zip"; \
    curl --fail --silent --show-error --location --proto '=https' --retry 3 --output kubectl \
      "https://dl.k8s.io/release/v${KUBECTL_VERSION}/bin/linux/amd64/kubectl"; \
    printf '%s  %s\n' "${TERRAFORM_SHA256}" terraform.zip "${KUBECTL_SHA256}" kubectl | sha256sum --check --strict; \
    unzip -q terraform.zip terraform; \
    chmod 0755 terraform kubectl

FROM --platform=linux/amd64 ${BASE_IMAGE}
# age and tar open a bundle without us; ssh reaches the nodes; git and less are for the person in the shell.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
      age bash-completion ca-certificates curl dnsutils git jq less openssh-client vim-tiny zstd \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 1777 /home/platform \
    && install -d /platform
COPY --from=tools /tools/terraform /tools/kubectl /usr/local/bin/
# The agent is an artifact here, not a command: platformctl publishes it to the nodes.
COPY --from=build /out/platformctl /usr/local/bin/
COPY --from=build /out/platform-agent /usr/local/lib/platform/platform-agent
ENV PLATFORM_AGENT=/usr/local/lib/platform/platform-agent
# Completions, and a prompt that says which environment this shell works on. bash reads this file where it is interactive.
RUN platformctl completions bash >/usr/share/bash-completion/completions/platformctl \
    && kubectl completion bash >/usr/share/bash-completion/completions/kubectl \
    && printf '%s\n' \
      '[ -z "${PS1:-}" ] || . /usr/share/bash-completion/bash_completion' \
      '[ -z "${PLATFORM_ENVIRONMENT:-}" ] || PS1="[$PLATFORM_ENVIRONMENT] \w\$ "' \
      'complete -C /usr/local/bin/terraform terraform' >>/etc/bash.bashrc
# Become whoever called run.kube, so that files in the working directory stay theirs; ssh insists on a passwd entry.
COPY --chmod=0755 <<'EOF' /usr/local/bin/as-caller
#!/bin/sh
set -eu
if [ "${PLATFORM_UID:-0}" = 0 ]; then exec "$@"; fi
getent passwd "$PLATFORM_UID" >/dev/null \
  || printf 'platform:x:%s:%s::/home/platform:/bin/bash\n' "$PLATFORM_UID" "$PLATFORM_GID" >>/etc/passwd
exec setpriv --reuid "$PLATFORM_UID" --regid "$PLATFORM_GID" --clear-groups "$@"
EOF
WORKDIR /platform
ENTRYPOINT ["/usr/local/bin/as-caller"]
CMD ["/bin/bash"]
