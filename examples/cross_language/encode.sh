#!/bin/sh
# The latent of one PNG by curl: its JSON, then the model's fingerprint.
#     sh examples/cross_language/encode.sh examples/noisy.png http://127.0.0.1:3000
# With an API key: -H "Authorization: Bearer $KEY". Needs curl 7.84 or newer.
set -eu
image=$1
url=${2:-http://127.0.0.1:3000}

[ -r "$image" ] || { echo "encode: cannot read $image" >&2; exit 2; }  # curl would send nothing

# After an error, the problem document is printed and the exit status is 22.
exec curl --silent --show-error --fail-with-body --max-time 60 \
    -H 'Content-Type: image/png' -H 'Accept: application/json' \
    --data-binary "@$image" \
    -w '\n%header{x-model-fingerprint}\n' \
    "$url/encode"
