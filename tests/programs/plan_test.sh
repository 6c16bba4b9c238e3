# plan_test.sh PLAN COMPILER INCLUDE: the program answers, its files are what they should be, an emitted run compiles and fits, and what it does not
# understand is an error that says how to mend it.
set -u
plan=$1
compiler=$2
include=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

fail() { echo "$1"; failed=1; }
expect() {  # expect CODE WORDS ARGUMENTS...: of the program; WORDS are parts of its answer, one a line
  code=$1
  words=$2
  shift 2
  out=$("$plan" "$@" 2>&1)
  got=$?
  if [ $got -ne "$code" ]; then fail "plan $* ends with $got, not $code: $out"; fi
  while IFS= read -r word; do
    if ! grep -qF -- "$word" <<< "$out"; then fail "plan $* does not say '$word': $out"; fi
  done <<< "$words"
}
has() {  # has FILE WORDS...
  file=$1
  shift
  for word in "$@"; do
    if ! grep -qF -- "$word" "$file"; then fail "$(basename "$file") does not hold '$word': $(head -c 2000 "$file")"; fi
  done
}

# The answer, and all files at once.
asked="--model mixtral-8x22b --gpus 128 --cluster dgx-h100 --seq 4096 --global-batch 256"
expect 0 $'141G parameters, 39.2G of them at work on a token) on 128 GPUs of dgx-h100\ncapacity 100%\nTFLOP/s\nlegal mappings\nwrote ' $asked --capacity 100 --top 4 \
  --json "$folder/plan.json" --emit-run "$folder/my_run.hpp" --svg-groups "$folder/groups.svg" --svg-time "$folder/time.svg"
has "$folder/plan.json" '"plans": [' '"refused": [' '"step_seconds":' '"mfu":' '"memory_bytes":' '"exposed":' '"command": "plan --model mixtral-8x22b'
has "$folder/groups.svg" '<svg' 'node 3' '</svg>'
has "$folder/time.svg" '<svg' 'matrix products' '</svg>'
has "$folder/my_run.hpp" 'struct my_run : moefold::run_defaults' 'capacity<100>' 'static_assert(moefold::fits<my_run, moefold::h100_80gb, 128'
expect 0 $'next: --explain' $asked --top 1
expect 0 $'axis  ranks\nmemory of a GPU of stage\n10 % better\nassumed\nof the time ends in steps that count' $asked --explain --top 1

# Numbers that are fixed are held, in every plan; standard output is JSON alone.
"$plan" $asked --fix tp=2,pp=8,vpp=7,micro_batch=1,recompute=full --top 5 --json - > "$folder/fixed.json" 2> "$folder/errors"
[ -s "$folder/errors" ] && fail "the JSON comes with: $(cat "$folder/errors")"
for pair in '"tp": 2' '"pp": 8' '"vpp": 7' '"micro_batch": 1' '"recompute": "full"'; do
  plans=$(grep -c '"step_seconds"' "$folder/fixed.json")
  held=$(sed '/"refused"/q' "$folder/fixed.json" | grep -cF "$pair")
  [ "$plans" -gt 0 ] && [ "$plans" -eq "$held" ] || fail "$held of $plans plans have $pair"
done
if command -v python3 > /dev/null; then
  python3 -m json.tool "$folder/fixed.json" > /dev/null || fail "the JSON is not valid"
fi

# Other strategies obey their rules.
expect 0 'strategy mcore' $asked --strategy mcore --top 1
expect 0 'strategy fsdp-ep' --model mixtral-8x7b --gpus 128 --strategy fsdp-ep --top 1
expect 2 'no run can be written for the strategy fsdp' --model mixtral-8x7b --gpus 128 --strategy fsdp --emit-run "$folder/sharded.hpp"

# Emitted runs compile, which proves them legal and, where they say so, that they fit. A small one of fp8 and selective recompute stands for the rest.
"$plan" --model default --gpus 8 --seq 256 --global-batch 16 --precision fp8 --fix tp=2,pp=2,recompute=norms+activation --emit-run "$folder/small_run.hpp" \
  > /dev/null || fail "no small run"
for run in my_run small_run; do
  echo "#include \"$folder/$run.hpp\"" > "$folder/$run.cpp"
  "$compiler" -std=c++20 -fsyntax-only -I "$include" "$folder/$run.cpp" || fail "the emitted $run does not compile"
done
has "$folder/small_run.hpp" 'moefold::fp8<>' 'moefold::recompute_part::norms' 'moefold::default_model'

# A run's routing.
for step in 1 2 3; do echo "{\"step\":$step,\"expert_load\":[[9,1,1,1,1,1,1,1],[2,2,2,2,2,2,2,2]]}"; done > "$folder/metrics.jsonl"
expect 0 $'routing of\n3 steps, 2 layers\nplan 1 waits' --model mixtral-8x7b --gpus 64 --global-batch 64 --routing "$folder/metrics.jsonl" --top 2
echo '{"step":4,"expert_load":[[1,2]]}' >> "$folder/metrics.jsonl"
expect 2 'metrics.jsonl, line 4' --model mixtral-8x7b --gpus 64 --routing "$folder/metrics.jsonl"

# What cannot be.
expect 2 "did you mean 'mixtral-8x22b'?" --model mixtral-8x22 --gpus 8
expect 2 "did you mean 'dgx-h100'?" --model mixtral-8x7b --gpus 8 --cluster dgx-h10
expect 2 "did you mean 'folding'?" --model mixtral-8x7b --gpus 8 --strategy fold
expect 2 "did you mean 'pp'?" --model mixtral-8x7b --gpus 8 --fix tp=2,pq=3
expect 2 "did you mean 'bf16'?" --model mixtral-8x7b --gpus 8 --precision fp16
expect 2 'a plan needs a model and a number of GPUs' --gpus 8
expect 2 'my_run.hpp' --model mixtral-8x7b --gpus 8 --emit-run a-b.hpp
expect 2 'see --help' --model mixtral-8x7b --gpus 8 --capacity 100 --dropless
expect 2 'see --help' --model mixtral-8x7b --gpus 0
expect 1 $'no mapping fits\nnothing fits: take more GPUs' --model mixtral-8x7b --gpus 1
expect 0 $'llama3-8x70b\ngb200-nvl72\nfsdp-ep' --list
exit $failed
