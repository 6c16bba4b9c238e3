# flight_test.sh FLIGHT: the program names where ranks parted, from files that two ranks might have written, and ends with what it found.
set -u
flight=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

dump() {  # dump RANK LINES: the file of a rank
  printf 'moefold flight 1\nworld 2\nrank %s\nrecorder 0\nhost node\npid 1\nclock 5000000000 9000000000\nreason %s\nlabel 0 world\nlabel 1 tp\ncalls 0 9\n%bend\n' \
    "$1" "a test" "$2" > "$folder/moefold-flight-node-1-0-failure-rank-$1.txt"
}
expect() {  # expect CODE WORDS...: of the program on the folder
  code=$1
  shift
  out=$("$flight" "$folder" 2>&1)
  got=$?
  if [ $got -ne "$code" ]; then echo "ends with $got, not $code: $out"; failed=1; fi
  for words in "$@"; do
    if ! grep -qF -- "$words" <<< "$out"; then echo "does not say '$words': $out"; failed=1; fi
  done
}

expect 2 "no file of a flight recorder was given"
dump 0 "0 0 1 0 2 0 barrier 0 uint8 0 - -1 host done 1000 2000\n"
dump 1 "0 0 1 0 2 1 barrier 0 uint8 0 - -1 host done 1100 2000\n"
expect 0 "the ranks agree on every call" "written because of: a test"
dump 1 "0 0 1 0 2 1 barrier 0 uint8 0 - -1 host done 1100 2000\n0 1 1 0 2 1 all_reduce 1 fp32 8 sum -1 host inside 3000 0\n"
expect 1 "rank 0 has not come to all_reduce #1 on world, where rank 1 waits; its last call, barrier #0 on world, ended 4.999998 s before" \
  "not come: 0" "inside 1"
dump 0 "0 0 1 0 2 0 barrier 0 uint8 0 - -1 host done 1000 2000\n0 1 1 0 2 0 all_gather 1 fp32 8 - -1 host failed 3000 4000\n"
expect 1 "ranks disagree on world: all_gather #1 of 8 x fp32 (rank 0) but all_reduce #1 of 8 x fp32, sum (rank 1)" \
  "the ranks disagree from here on"
rm "$folder"/*rank-0.txt
expect 1 "there is no file of that rank" "note: there is no file of ranks 0 of 2"
echo "colour red" >> "$folder/moefold-flight-node-1-0-failure-rank-0.txt"
expect 2 "at byte 0" "no file of a flight recorder"
"$flight" > /dev/null 2>&1
[ $? -eq 2 ] || { echo "without a file it does not end with 2"; failed=1; }
"$flight" --colour "$folder" > /dev/null 2>&1
[ $? -eq 2 ] || { echo "an unknown option does not end with 2"; failed=1; }
"$flight" --help | grep -q MOEFOLD_FLIGHT_DIR || { echo "--help does not name the variable"; failed=1; }
exit $failed
