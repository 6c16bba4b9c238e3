#!/usr/bin/env bash
# What a user of `train --device cuda` sees: the device, bf16, losses that are those of a single rank. The program may be built for the emulated device.
# usage: train_device_test.sh PROGRAM
set -uo pipefail
train=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() { echo "FAILED: $1"; failed=1; }

cat "$(dirname "$0")"/../../include/moefold/core/*.hpp | head -c 60000 >"$work/letters"

"$train" --device cuda --dry-run >"$work/dry" || fail "--device cuda --dry-run failed"
grep -qE "bf16; [0-9]+ ranks? (as threads )?on [0-9]+ devices? \(" "$work/dry" || fail "--dry-run does not name precision and device"

"$train" --device cuda --steps 2 --global-batch 1 --held-out 0 --data "$work/letters" --metrics "$work/m.jsonl" >"$work/out" || { fail "two steps failed"; tail -5 "$work/out"; }
grep -q "losses are those of a single rank" "$work/out" || { fail "the losses are not those of a single rank"; cat "$work/out"; }
grep -q '"precision":"bf16"' "$work/m.jsonl" || fail "the metrics do not say bf16"
[[ $(grep -c '"step":' "$work/m.jsonl") -eq 2 ]] || fail "not one metrics line per step"

status=0
"$train" --device nonsense >"$work/out" 2>"$work/err" || status=$?
[[ $status -eq 2 ]] || fail "an unknown device ends with exit code $status"
exit $failed
