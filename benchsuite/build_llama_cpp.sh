#!/bin/sh
# Builds llama.cpp's own benchmarks for this machine, from the source that llama-cpp-python carries on PyPI.
#
# Usage: build_llama_cpp.sh FOLDER      leaves FOLDER/bin/llama-batched-bench and FOLDER/bin/llama-bench
set -eu
folder=$1
version=0.3.36
mkdir -p "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cmake ninja
"$folder/venv/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder" \
    "llama-cpp-python==$version"
mkdir -p "$folder/source"
tar xzf "$folder/llama_cpp_python-$version.tar.gz" -C "$folder/source" --strip-components=1
PATH="$folder/venv/bin:$PATH"
# GCC 12 takes the tiles' configuration (AMX) for 8 bytes and leaves the stores of the others out as dead: the benchmarks
# then end with SIGILL on processors that have tiles.
cmake -S "$folder/source/vendor/llama.cpp" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DCMAKE_CXX_FLAGS="-fno-dse -fno-tree-dse" \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF >/dev/null
cmake --build "$folder/build" --target llama-batched-bench llama-bench
mkdir -p "$folder/bin"
cp "$folder/build/bin/"* "$folder/bin/"
echo "built in $folder/bin"
