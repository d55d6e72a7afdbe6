#!/usr/bin/env bash
# What a GPU says, in one command and at most 12 minutes: the parts of benchmarks/gpu/, the most valuable first, each under
# its own time limit. Nothing is downloaded or installed: what a part needs and was not carried, it says and skips.
#
#     benchmarks/gpu.sh            # on a machine with a GPU; into $OUT, or benchmarks/results/gpu
#     benchmarks/gpu.sh --toy      # on the CPU, in seconds, at a size that measures nothing: does it run?
#
# PYTHON is the interpreter; default .venv's where there is one. ONLY="bank engines" runs those parts alone. Results are
# written row by row: gpu.md is the page of all parts, also of those that a limit stopped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

toy=()
[[ "${1:-}" == --toy ]] && toy=(--toy)
out="${OUT:-benchmarks/results/gpu}"
python="${PYTHON:-python3}"
[[ -z "${PYTHON:-}" && -x .venv/bin/python ]] && python=.venv/bin/python
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
failed=0

part() { # NAME SECONDS
  [[ -n "${ONLY:-}" && " $ONLY " != *" $1 "* ]] && return
  local limit=$2
  [[ ${#toy[@]} -gt 0 ]] && limit=$((10 * $2)) # a busy machine's imports alone can take a minute
  echo "== $1 (at most $limit s)"
  timeout --kill-after=5 "$limit" "$python" -m "benchmarks.gpu.$1" ${toy[@]+"${toy[@]}"} --out "$out"
  local code=$?
  [[ $code == 124 || $code == 137 ]] && echo "$1 was stopped after $limit s; what it had measured is in $out"
  [[ $code == 0 ]] || failed=1
}

part guard_cost 170
part engines 150
part training 150
part bank 60
part diffusion 150 # 680 s in all, and 5 each for what does not stop at once

echo "wrote $out/gpu.md"
exit $failed
