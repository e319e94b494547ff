#!/bin/sh
# What both recipes install of Debian: Python with its headers and a C compiler (triton compiles with them), make, and
# bubblewrap (model-written programs run confined).
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends ca-certificates python3 python3-venv python3-dev gcc g++ make bubblewrap
rm -rf /var/lib/apt/lists/*
