#!/bin/sh
# Runs a command, which hears the signals of this script; ends with its status unless it is 0.
stage() {
  "$@" &
  trap "kill -TERM $! 2>/dev/null" TERM USR1 INT
  wait $!
  status=$?
  while kill -0 $! 2>/dev/null; do
    wait $!
    status=$?
  done
  [ "$status" -eq 0 ] || exit "$status"
}

stage supernet train configs/digits.py --out runs/a --train.steps 50
stage supernet search runs/a --high 300000.0 --mutation-rate 0.3
stage supernet evaluate runs/a --front --split test
stage supernet extract runs/a --front --out runs/a/networks --format onnx stablehlo
