#!/usr/bin/env bash
# Software bills of materials (CycloneDX 1.5, JSON) into the folder $1: one for each image and one for the user's command, with the
# versions and hashes of uv.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/sbom.sh FOLDER}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
mkdir -p "$out"
for part in webhook manager cli; do
  file="$out/tidb-backup-$part-$version.cdx.json"
  .venv/bin/uv export --frozen --quiet --no-dev --extra "$part" --format cyclonedx1.5 --preview-features sbom-export --output-file "$file" > /dev/null
  echo "sbom: $file, $(grep -c '"purl"' "$file") packages"
done
