#!/usr/bin/env bash
# Installs what building and testing moefold needs on Debian or Ubuntu, and nothing that is there already. As root, or with sudo.
# Not installed: the CUDA Toolkit, which Debian does not carry; the presets cuda and gpu-* need it.
set -euo pipefail

packages=(
  cmake ninja-build git ca-certificates          # the build
  g++ clang libclang-rt-dev                      # both compilers compile every header; the build uses g++, the fuzz targets clang
  ccache                                         # used where present
  libopenblas-pthread-dev                        # matrix products; not the serial flavour, which threads may not share
  doctest-dev libbenchmark-dev libcli11-dev      # tests, benchmarks, the programs' command lines
  nlohmann-json3-dev libxxhash-dev               # model files and checkpoints: JSON headers, hashes
  libopenmpi-dev openmpi-bin libmpich-dev mpich  # ranks over MPI; the tests run over both
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "moefold: no apt here; install these packages with your system's own manager: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "moefold: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "moefold: neither root nor sudo; ask your administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "moefold: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "moefold: apt-get could not install ${missing[*]}; the lines above say why" >&2
  exit 1
fi
echo "moefold: installed ${#missing[@]} packages"
