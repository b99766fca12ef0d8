#!/usr/bin/env bash
# From a model to an artifact in four commands.  Usage: quickstart.sh MODEL DATA OUT [OPTIONS OF COMPRESS...]
set -euo pipefail
model=$1 data=$2 out=$3
shift 3
bertpress compress "$model" --task text-classification --data "$data" --recipe quick --out "$out" "$@"
bertpress evaluate "$out" --data "$data" --engine openvino
echo 'the film was good' | bertpress predict "$out" --engine openvino
bertpress export "$out" --to onnx --out "$out/files"
