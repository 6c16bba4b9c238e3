#!/usr/bin/env bash
# What a user of the program `train` sees: tables, live line, metrics, early stop, and one clear sentence with exit code 2 for what cannot work.
# usage: train_test.sh PROGRAM
set -uo pipefail
train=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fail() { echo "FAILED: $1"; failed=1; }
# refused CODE "words" ARGS...: the program says the words in one line on stderr and exits with CODE
refused() {
  local code=$1 words=$2 status=0
  shift 2
  "$train" "$@" >"$work/out" 2>"$work/err" || status=$?
  [[ $status -eq $code ]] || fail "exit code $status instead of $code: train $*"
  grep -qF -- "$words" "$work/err" || { fail "no '$words' from: train $*"; cat "$work/err"; }
  [[ $(wc -l <"$work/err") -eq 1 ]] || fail "more than one line from: train $*"
}

head -c 60000 /dev/zero | tr "\0" "a" >"$work/letters"   # 60 kB of one letter
head -c 1000 "$work/letters" >"$work/short"
: >"$work/empty"

refused 2 "--wrong" --wrong
refused 2 "0 steps only loads" --steps 0
refused 2 "--global-batch" --global-batch 0
refused 2 "--ranks" --ranks -4
refused 2 "--steps" --steps many
refused 2 "there is no run 'nothing'" --run nothing
refused 2 "$work/missing" --data "$work/missing"
refused 2 "$work/empty" --data "$work/empty"
refused 2 "global batch" --data "$work/short"
refused 2 "start 8 ranks" --ranks 6
refused 2 "learning rate" --learning-rate nan --data "$work/letters"
refused 2 "global batch is at most" --global-batch 1000000000000000
refused 2 "micro-batch is at most" --micro-batch 4611686018427387904
refused 2 "global batch must be a positive multiple" --micro-batch 3 --data "$work/letters"
refused 2 "cannot write metrics file" --metrics "$work/no/such/folder/m.jsonl" --data "$work/letters" --steps 1

"$train" --help | grep -q -- "--global-batch" || fail "--help does not name --global-batch"
"$train" --list | grep -q "^folded_8 " || fail "--list does not name folded_8"

"$train" --dry-run >"$work/dry" || fail "--dry-run failed"
grep -q "optimizer" "$work/dry" || fail "--dry-run shows no memory table"
grep -q "{0 1 2 3} {4 5 6 7}" "$work/dry" || fail "--dry-run shows no groups"
grep -q "moe: all_to_all, dropless; balance losses: 0.01 micro_batch" "$work/dry" || fail "--dry-run does not say what the MoE layers do"
grep -q "| loss" "$work/dry" && fail "--dry-run trained"

"$train" --draw-schedule "$work/schedule.svg" >"$work/out" || fail "--draw-schedule failed"
grep -qF "$work/schedule.svg" "$work/out" || fail "--draw-schedule does not say where the picture is"
[[ $(wc -l <"$work/out") -eq 1 ]] || fail "--draw-schedule says more than one line"
grep -q "<svg" "$work/schedule.svg" || fail "--draw-schedule drew nothing"
refused 2 "cannot write picture of the schedule" --draw-schedule "$work/no/such/folder/s.svg"

"$train" --steps 3 --data "$work/letters" --metrics "$work/m.jsonl" --seed 5 --learning-rate 1e-3 >"$work/out" || fail "three steps failed"
grep -q "of a single rank" "$work/out" || fail "no word about the single rank"
grep -qE "step +3/3 \| loss [0-9.]+ .*\| gnorm .*\| lr .*tok/s \| moe [0-9.]+x aux [0-9.]+ \| comm [0-9]+% cpu \| eta" "$work/out" || fail "no live line"
grep -q "order-0 entropy" "$work/out" || fail "no closing line"
[[ $(grep -c '"step":' "$work/m.jsonl") -eq 3 ]] || fail "not one metrics line per step"
head -1 "$work/m.jsonl" | grep -q '"run":"folded_8","world":8' || fail "no head line in the metrics"
if command -v python3 >/dev/null; then
  python3 - "$work/m.jsonl" <<'PY' || fail "the metrics are not what they should be"
import json, sys
head, *steps = [json.loads(line) for line in open(sys.argv[1])]
assert "step" not in head and head["attention"]["tp"] == 2 and head["moe"]["ep"] == 4 and head["precision"] == "fp32", head
assert {"run", "world", "version", "commit", "compiler"} <= head.keys()
for i, s in enumerate(steps):
    assert s["step"] == i + 1 and s["tokens"] == 8 * 256
    assert {"loss", "grad_norm", "lr", "tokens_per_second", "comm_bytes"} <= s.keys()
    assert len(s["expert_load"]) == 4 and all(sum(layer) == 2 * 8 * 256 for layer in s["expert_load"])
    assert s["comm_bytes"]["ep"] > 0 and s["comm_bytes"]["tp"] > 0
    assert len(s["load_max_over_mean"]) == 4 and max(s["load_max_over_mean"]) == s["moe_max_over_mean"]
    assert len(s["balance_losses"]["micro_batch"]) == 4 and "dropped_share" not in s
assert "eval_loss" in steps[-1] and "eval_loss" not in steps[0]
PY
fi

# The heatmap, and a routing that is recorded and replayed; a file that is none is refused
"$train" --steps 2 --data "$work/letters" --heatmap "$work/load.svg" --record-routing "$work/routing" >"$work/out" || fail "recording failed"
grep -q "expert-load heatmap: $work/load.svg" "$work/out" || fail "no word about the heatmap"
grep -q "<svg" "$work/load.svg" || fail "the heatmap is no SVG"
"$train" --steps 3 --seed 9 --data "$work/letters" --replay-routing "$work/routing" --record-routing "$work/again" >"$work/out" || fail "replay failed"
grep -q "2 steps replayed" "$work/out" || fail "no word about the replay"
cmp -s <(tail -n +2 "$work/routing") <(tail -n +2 "$work/again" | head -c $(tail -n +2 "$work/routing" | wc -c)) || fail "the replayed routing is another"
refused 2 "$work/letters" --replay-routing "$work/letters" --data "$work/letters"
refused 2 "no/load.svg" --heatmap "$work/no/load.svg" --data "$work/letters"

# Ctrl-C: the running step ends, a summary follows, exit code 130
"$train" --steps 100000 --data "$work/letters" >"$work/long" 2>&1 &
pid=$!
for _ in $(seq 300); do grep -q "of a single rank" "$work/long" && break; sleep 0.1; done
kill -INT $pid
wait $pid; status=$?
[[ $status -eq 130 ]] || fail "Ctrl-C gave exit code $status"
grep -q "stopped by SIGINT after step" "$work/long" || fail "Ctrl-C gave no summary"

[[ $failed -eq 0 ]] && echo "all checks of the program passed"
exit $failed
