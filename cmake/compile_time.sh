#!/usr/bin/env bash
# compile_time.sh LIMIT_MS HEADER COMPILER FLAGS...: the best of three compilations of one header must stay under the limit.
# CPU time of the compiler, not wall time, so that a busy machine does not decide.
set -euo pipefail
limit=$1 header=$2
shift 2
check=(-fsyntax-only -include "$header" -x c++ /dev/null)
[[ $1 == *nvcc* ]] && check=(-include "$header" -x cu -c /dev/null -o /dev/null)  # nvcc has no -fsyntax-only
best=
for _ in 1 2 3; do
  TIMEFORMAT=%3U
  seconds=$({ time "$@" "${check[@]}" >&2; } 2>&1 | tail -1)
  ms=$((10#${seconds/./}))
  if [[ -z $best || $ms -lt $best ]]; then best=$ms; fi
done
echo "$header: $best ms, limit $limit ms"
[[ $best -lt $limit ]] || { echo "moefold: $header takes $best ms to compile, at most $limit; find the new include with -ftime-report"; exit 1; }
