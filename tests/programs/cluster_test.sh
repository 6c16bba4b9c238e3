#!/usr/bin/env bash
# What a user of the program `train` sees whose ranks are processes: the losses of ranks as threads under every launcher, one voice, one root cause, no orphan.
# usage: cluster_test.sh PROGRAM [MPIRUN ARGS...]      without mpirun its part is left out
set -uo pipefail
train=$1
shift
mpirun=("$@")
work=$(mktemp -d)
trap 'kill -9 "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
failed=0
pids=()
fail() { echo "FAILED: $1"; failed=1; }
port=$((20000 + $$ % 20000))

cat "$(dirname "$0")"/../../include/moefold/core/*.hpp | head -c 60000 >"$work/text"
run=(--data "$work/text" --steps 2 --seed 5)

# start NAME VARIABLES... -- ARGS...: 8 processes in the background, rank r with r for % in the variables and arguments; their output in NAME.r.out, NAME.r.err
start() {
  local name=$1 variables=() r
  shift
  while [[ $1 != -- ]]; do variables+=("$1"); shift; done
  shift
  pids=()
  for r in $(seq 0 $((${processes:-8} - 1))); do
    env "${variables[@]//%/$r}" "$train" "${@//%/$r}" >"$work/$name.$r.out" 2>"$work/$name.$r.err" &
    pids+=($!)
  done
}
torchrun() { port=$((port + 2)); variables=(RANK=% WORLD_SIZE=${processes:-8} LOCAL_RANK=% LOCAL_WORLD_SIZE=${processes:-8} MASTER_ADDR=127.0.0.1 MASTER_PORT=$port); }
# ended NAME CODE...: every process ends with that code, within the time that is left
ended() {
  local name=$1 code=$2 r status
  for r in "${!pids[@]}"; do
    status=0
    wait "${pids[$r]}" || status=$?
    [[ $status -eq $code || $r == "${3:-}" ]] || { fail "$name: rank $r ended with $status instead of $code"; tail -3 "$work/$name.$r.err"; }
  done
  pids=()
}
# said NAME "words": all processes together say one line on stderr, and these words are in it
said() {
  cat "$work/$1".*.err >"$work/all"
  grep -qF -- "$2" "$work/all" || { fail "$1: no '$2'"; cat "$work/all"; }
  [[ $(wc -l <"$work/all") -eq 1 ]] || { fail "$1: more than one line"; cat "$work/all"; }
}
# same NAME: the losses and norms in NAME.jsonl are those of the threads, and only rank 0 has spoken
numbers() { grep -oE '"(loss|grad_norm|eval_loss)":[^,}]*' "$1"; }
same() {
  [[ -s "$work/$1.jsonl" ]] && cmp -s <(numbers "$work/threads.jsonl") <(numbers "$work/$1.jsonl") ||
    { fail "$1: not the losses of the threads"; paste <(numbers "$work/threads.jsonl") <(numbers "$work/$1.jsonl"); }
}

"$train" "${run[@]}" --metrics "$work/threads.jsonl" >"$work/out" || fail "ranks as threads failed"

torchrun
start torchrun "${variables[@]}" -- "${run[@]}" --metrics "$work/torchrun.jsonl" --save "$work/saves"
ended torchrun 0
same torchrun
grep -q "8 ranks as processes (torchrun), over TCP sockets" "$work/torchrun.0.out" || fail "it does not say where its ranks live"
grep -q "the first 2 losses are those of a single rank" "$work/torchrun.0.out" || fail "no comparison with a single rank"
[[ -z $(cat "$work"/torchrun.[1-7].out "$work"/torchrun.*.err) ]] || fail "other ranks than 0 speak"

slurm=(SLURM_PROCID=% SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=% SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=localhost SLURM_JOB_ID=$((port + 30001)))
start slurm "${slurm[@]}" -- "${run[@]}" --metrics "$work/slurm.jsonl"
ended slurm 0
same slurm
grep -q "8 ranks as processes (srun), over TCP sockets" "$work/slurm.0.out" || fail "it does not name srun"

# What was saved by processes goes on as threads, and the other way round; what only reads works too
"$train" --resume "$work/saves" --data "$work/text" --steps 3 --save "$work/saves" >"$work/out" || fail "processes' save does not resume"
torchrun
start back "${variables[@]}" -- --resume "$work/saves" --steps 0 --export "$work/model"
ended back 0
grep -q "resumed: step 3" "$work/back.0.out" && [[ -s "$work/model/model.safetensors" ]] || fail "processes do not export the threads' save"
torchrun
start generate "${variables[@]}" -- --load "$work/model" --generate "int" --generate-tokens 2
ended generate 0
[[ $(tail -1 "$work/generate.0.out") == int* ]] || fail "processes do not continue a text"

# Whatever cannot work is said once, with exit code 2 everywhere
processes=4 torchrun
processes=4 start fold "${variables[@]}" -- "${run[@]}"
ended fold 2
said fold "start 8 ranks"
torchrun
cp "$work/text" "$work/text.0"; for r in 1 2 4 5 6 7; do cp "$work/text" "$work/text.$r"; done
start file "${variables[@]}" -- --data "$work/text.%" --steps 1
ended file 2
said file "rank 3: "
processes=1 start two RANK=0 WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4 -- "${run[@]}"
ended two 2
said two "RANK=0, WORLD_SIZE=8 of torchrun contradicts OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4 of Open MPI"

# One of them is killed: all others end, with one root cause, and nothing is left
long=(--data "$work/text" --steps 100000)
training() { for _ in $(seq 600); do grep -q "of a single rank" "$work/$1.0.out" && return; sleep 0.1; done; fail "$1: it does not train"; }
torchrun
start killed "${variables[@]}" -- "${long[@]}"
training killed
before=$(date +%s%N)
kill -9 "${pids[3]}"
ended killed 1 3
milliseconds=$((($(date +%s%N) - before) / 1000000))
echo "F03 (sockets): rank 3 of 8 killed, the others ended after $milliseconds ms"
[[ $milliseconds -lt 25000 ]] || fail "they ended after $milliseconds ms"
said killed "rank 3 is lost"

# SIGTERM to all: the step ends, the state is saved, exit code 143, and one report
torchrun
start stopped "${variables[@]}" -- "${long[@]}" --save "$work/stopped"
training stopped
kill -TERM "${pids[@]}"
ended stopped 143
grep -q "stopped by SIGTERM after step" "$work/stopped.0.out" || fail "it does not say what stopped it"
[[ -f "$work/stopped/latest" ]] || fail "processes stopped by SIGTERM have not saved"

if [[ ${#mpirun[@]} -gt 0 ]]; then
  port=$((port + 2))  # and where ranks meet if they do not talk over MPI: a port of this job's own
  export MOEFOLD_PORT=$port
  "${mpirun[@]}" -np 8 "$train" "${run[@]}" --metrics "$work/mpirun.jsonl" >"$work/out" 2>"$work/err" || { fail "mpirun failed"; tail -5 "$work/err"; }
  same mpirun
  grep -qE "8 ranks as processes \((Open MPI|PMI)\), over " "$work/out" || fail "it does not say that mpirun started it"
  status=0
  "${mpirun[@]}" -np 4 "$train" "${run[@]}" >"$work/out" 2>"$work/err" || status=$?
  [[ $status -eq 2 && $(grep -c "start 8 ranks" "$work/err") -eq 1 ]] || { fail "4 processes by mpirun: $status"; cat "$work/err"; }
  "${mpirun[@]}" -np 8 "$train" "${long[@]}" >"$work/job.0.out" 2>"$work/job.0.err" &
  pids=($!)
  training job
  kill -TERM $(ps -eo pid=,ppid=,args= | awk -v job="${pids[0]}" -v program="$train" '
    { parent[$1] = $2; mine[$1] = $3 == program }
    END { for (p in mine) if (mine[p]) for (q = parent[p]; q > 1; q = parent[q]) if (q == job) print p }')
  ended job 143
  [[ $(grep -c "stopped by SIGTERM after step" "$work/job.0.out") -eq 1 ]] || { fail "mpirun: not one report of the signal"; cat "$work/job.0.err"; }
fi

[[ $failed -eq 0 ]] && echo "all checks of ranks as processes passed"
exit $failed
