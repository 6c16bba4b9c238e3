#!/usr/bin/env bash
# compile_time.sh LIMIT_MS HEADER COMPILER FLAGS...: the best of up to five compilations of one header must stay under the limit.
# CPU time of the compiler, not wall time, so that a busy machine does not decide; and on a machine that is slower than the one the limits were written for
# the limit grows with the time of a reference, eight headers of the standard library, compiled in between.
set -euo pipefail
limit=$1 header=$2
shift 2
check=(-fsyntax-only -include "$header" -x c++ /dev/null)
[[ $1 == *nvcc* ]] && check=(-include "$header" -x cu -c /dev/null -o /dev/null)  # nvcc has no -fsyntax-only
reference=(c++ -std=c++20 -fsyntax-only -x c++ -)
reference_ms=500  # where the limits were written, less what scatters
standard=$(printf '#include <%s>\n' algorithm functional map memory random string thread vector)

milliseconds() {  # of the processor, of a command that reads the standard headers' includes
  local TIMEFORMAT=%3U seconds
  seconds=$({ time "$@" >&2 <<<"$standard"; } 2>&1 | tail -1)
  echo $((10#${seconds/./}))
}
best='' beside=''
for _ in 1 2 3 4 5; do
  ms=$(milliseconds "$@" "${check[@]}")
  [[ -n $best && $best -le $ms ]] || best=$ms
  ms=$(milliseconds "${reference[@]}")
  [[ -n $beside && $beside -le $ms ]] || beside=$ms
  allowed=$limit
  [[ $beside -le $reference_ms ]] || allowed=$((limit * beside / reference_ms))
  [[ $best -ge $allowed ]] || break
done
echo "$header: $best ms, limit $limit ms; reference $beside ms, so $allowed ms here"
[[ $best -lt $allowed ]] || { echo "moefold: $header takes $best ms to compile, at most $allowed; find the new include with -ftime-report"; exit 1; }
