#!/usr/bin/env bash
# killed.sh NAME PROGRAM LAUNCHER...: F03. A rank of a job under mpirun ends in the middle of its work, in each way a process can: mpirun ends with a code that
# is not 0 and leaves no process behind. The deadline of the job is 2 s; each case may take that and 5 s, and 2 s for mpirun itself.
set -u
name=$1 program=$2
shift 2
mark=MOEFOLD_JOB_$$_$RANDOM
cases=0 passed=0
for case in 2:SIGKILL 2:SIGSEGV 2:exit 2:_Exit 2:throw 2:hang 3:SIGKILL 4:SIGSEGV 8:SIGKILL 8:SIGSEGV 8:throw; do
  ranks=${case%:*} how=${case#*:}
  begin=$(date +%s%N)
  env "$mark=1" timeout -s KILL 60 "$@" -np "$ranks" "$program" die "$how" >"${TMPDIR:-/tmp}/$mark" 2>&1
  code=$?
  milliseconds=$((($(date +%s%N) - begin) / 1000000))
  for wait in 1 2 3 4 5 6 7 8 9 10; do  # what mpirun has killed may need a moment to be gone
    left=$(grep -lz "^$mark=1" /proc/[0-9]*/environ 2>/dev/null | wc -l)
    [[ $left -eq 0 ]] && break
    sleep 0.2
  done
  cases=$((cases + 1))
  if [[ $code -ne 0 && $left -eq 0 && $milliseconds -lt 9000 ]]; then
    passed=$((passed + 1))
  else
    echo "F03: $ranks processes, $how: code $code, $left processes left, $milliseconds ms" && tail -n 20 "${TMPDIR:-/tmp}/$mark"
  fi
  echo "F03: $name, $ranks processes, $how: code $code after $milliseconds ms"
done
rm -f "${TMPDIR:-/tmp}/$mark"
echo "F03: $passed of $cases cases under $name"
[[ $passed -eq $cases ]]
