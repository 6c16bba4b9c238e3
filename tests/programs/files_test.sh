#!/usr/bin/env bash
# What a user of the program `train` sees of saves and models: killed and stopped runs resume, models go out and come back, texts are continued.
# usage: files_test.sh PROGRAM
set -uo pipefail
train=$1
work=$(mktemp -d)
pid=
trap '[[ -n $pid ]] && kill -9 $pid 2>/dev/null; rm -rf "$work"' EXIT
failed=0

fail() { echo "FAILED: $1"; failed=1; }
refused() {  # refused "words" ARGS...
  local words=$1 status=0
  shift
  "$train" "$@" >"$work/out" 2>"$work/err" || status=$?
  [[ $status -eq 2 ]] || fail "exit code $status instead of 2: train $*"
  grep -qF -- "$words" "$work/err" || { fail "no '$words' from: train $*"; cat "$work/err"; }
  [[ -s "$work/out" ]] && fail "something was printed before: train $*"
}
losses() { grep -oE 'step +[0-9]+/[0-9]+ \| loss [0-9.]+' "$1" | sed 's/ \+/ /g'; }

seq 1 20000 | tr '\n' ' ' >"$work/text"
run() { "$train" --data "$work/text" "$@"; }

# One run undisturbed, one that is saved after 4 of its 6 steps and goes on.
run --steps 6 --metrics "$work/whole.jsonl" >"$work/whole" || fail "six steps failed"
run --steps 6 --save "$work/saves" --save-every 2 --metrics "$work/m.jsonl" >"$work/first" || fail "saving failed"
[[ $(cat "$work/saves/latest") == step-00000006 ]] || fail "the newest save is not that of step 6"
[[ $(ls -d "$work"/saves/step-* | wc -l) -eq 2 ]] || fail "not two saves kept"
run --steps 6 --resume "$work/saves/step-00000004" --metrics "$work/m.jsonl" >"$work/rest" || fail "resuming failed"
grep -q "resumed: step 4 from $work/saves/step-00000004" "$work/rest" || fail "it does not say what is resumed"
grep -q "mapping: .*, as before" "$work/rest" || fail "it does not say that the mapping stayed"
loss() { grep '"step":6' "$1" | grep -oE '"loss":[0-9.]+' | tail -1; }
[[ -n $(loss "$work/whole.jsonl") && $(loss "$work/m.jsonl") == $(loss "$work/whole.jsonl") ]] || fail "the resumed run has another loss at step 6"
[[ $(grep -c '"step":' "$work/m.jsonl") -eq 6 ]] || fail "the metrics do not go on where the save was"
refused "ends with step 6; give more --steps" --resume "$work/saves" --steps 6 --data "$work/text"

# Stopped by SIGTERM: the step is finished, the state saved, the exit code 143.
"$train" --data "$work/text" --steps 100000 --save "$work/stopped" >"$work/out" &
pid=$!
for _ in $(seq 100); do grep -q '| loss' "$work/out" && break; sleep 0.1; done
kill -TERM $pid
wait $pid; status=$?
[[ $status -eq 143 ]] || fail "a run stopped by SIGTERM ends with exit code $status"
pid=
grep -q "stopped by SIGTERM after step .* go on with --resume $work/stopped" "$work/out" || fail "it does not say where it stopped"
[[ -f "$work/stopped/latest" ]] || fail "a run stopped by SIGTERM has not saved"

# Out, back, and out again: every bit the same; a folder that exists stays as it is.
"$train" --resume "$work/saves" --steps 0 --export "$work/model" >"$work/out" || fail "export failed"
"$train" --load "$work/model" --steps 0 --export "$work/again" >"$work/out" || fail "loading failed"
cmp "$work/model/model.safetensors" "$work/again/model.safetensors" || fail "a loaded and exported model is another one"
cmp "$work/model/config.json" "$work/again/config.json" || fail "its configuration is another one"
refused "'$work/again' exists" --load "$work/model" --steps 0 --export "$work/again"
"$train" --load "$work/model" --evaluate --data "$work/text" | grep -qE "loss [0-9.]+, perplexity [0-9.]+, over [0-9]+ tokens" || fail "no perplexity"
"$train" --load "$work/model" --generate "100 101 10" --generate-tokens 3 >"$work/out" || fail "generating failed"
[[ $(tail -1 "$work/out") == "100 101 10"* ]] || fail "the text is not continued"
run --load "$work/model" --steps 1 --learning-rate 0 --dump-gradients "$work/g.safetensors" >"$work/out" || fail "gradients failed"
[[ $(head -c 100000 "$work/g.safetensors" | grep -c "block_sparse_moe.experts.7.w2.weight") -eq 1 ]] || fail "no published names among the gradients"

printf '{"model_type":"mixtral"}' >"$work/model/config.json"
refused "'num_hidden_layers' is missing" --load "$work/model" --steps 0 --export "$work/third"
refused "give only one of" --load "$work/model" --resume "$work/saves"
refused "there is no checkpoint folder" --resume "$work/nothing"
refused "there is no data format 'words'" --data-format words --data "$work/text"

exit $failed
