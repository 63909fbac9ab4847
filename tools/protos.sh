#!/bin/sh
# Generates the protobuf code of protos/*.proto; with --check, fails when what is committed differs.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=src
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
$python -m grpc_tools.protoc -I reedbed/protos=protos --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    reedbed/protos/lane.proto reedbed/protos/storage.proto reedbed/protos/catalog.proto
# only lane.proto has a service
rm -f "$out"/reedbed/protos/storage_pb2_grpc.py "$out"/reedbed/protos/catalog_pb2_grpc.py
if [ "${1:-}" = --check ]; then
    for file in "$out"/reedbed/protos/*; do
        cmp "$file" "protos/$(basename "$file")" || { echo "generated code is old: run tools/protos.sh" >&2; exit 1; }
    done
fi
