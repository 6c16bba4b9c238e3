#!/usr/bin/env bash
# cmake/install-deps.sh on a Debian that lacks every package: a fresh minimal system in a folder, made by debootstrap. Run as root, with a network;
# ends with 77 (skipped) where that is not to be had. Afterwards the tools are there, and a second run changes nothing.
# usage: install_deps_soak.sh PATH_TO_INSTALL_DEPS
set -euo pipefail
script=$1
if [[ $(id -u) -ne 0 ]] || ! command -v debootstrap >/dev/null; then
  echo "skipped: needs root and debootstrap"
  exit 77
fi
bare=$(mktemp -d)
cleanup() {
  umount "$bare/proc" 2>/dev/null || true
  rm -rf --one-file-system "$bare"
}
trap cleanup EXIT
debootstrap --variant=minbase bookworm "$bare" >"$bare.log" 2>&1 || { tail -5 "$bare.log"; echo "skipped: no network for debootstrap"; exit 77; }
rm -f "$bare.log"
cp /etc/resolv.conf "$bare/etc/resolv.conf"
mount -t proc proc "$bare/proc"
cp "$script" "$bare/install-deps.sh"
in_bare() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ chroot "$bare" "$@"; }

for tool in cmake ninja g++ clang++ git ccache; do
  ! in_bare sh -c "command -v $tool" >/dev/null || { echo "FAILED: the bare system already has $tool"; exit 1; }
done
in_bare bash /install-deps.sh | tee "$bare/first"
grep -q "installed [0-9]* packages" "$bare/first" || { echo "FAILED: nothing was installed"; exit 1; }
for tool in cmake ninja g++ clang++ git ccache; do
  in_bare sh -c "command -v $tool" >/dev/null || { echo "FAILED: $tool is missing afterwards"; exit 1; }
done
in_bare sh -c 'printf "#include <cblas.h>\n#include <doctest/doctest.h>\n#include <benchmark/benchmark.h>\n#include <CLI/CLI.hpp>\nint main(){}\n" >/t.cpp &&
  g++ -std=c++20 -fsyntax-only -I /usr/include/x86_64-linux-gnu/openblas-pthread /t.cpp' || { echo "FAILED: a header is missing"; exit 1; }
in_bare bash /install-deps.sh | grep -q "packages are installed" || { echo "FAILED: the second run was no no-op"; exit 1; }
echo "install-deps works on a bare system, and twice"
