#!/usr/bin/env bash
# The locked packages against the database of known vulnerabilities (OSV). Exit 1: one of them has one. A database that cannot be
# reached is a skip that says so: a build without network is no finding.
set -uo pipefail
cd "$(dirname "$0")/.."
URL=${AUDIT_URL:-https://api.osv.dev}
said=$(UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 60 .venv/bin/uv audit --frozen --preview-features audit-command --service-url "$URL/" 2>&1)
rc=$?
if [ $rc -eq 0 ]; then
  echo "audit: $(grep -c '^name = ' uv.lock) locked packages, no known vulnerability"
elif [ $rc -eq 124 ] || { [ $rc -eq 2 ] && grep -qE 'error sending request|Request failed|HTTP status server error|429' <<< "$said"; }; then
  cause=$(grep -E '^ *(error|cause):' <<< "$said" | tail -1 | sed 's/^ *[a-z]*: *//')
  echo "audit: SKIPPED, $URL cannot be reached (${cause:-no answer within 60 s}); nothing is known about vulnerabilities"
else
  echo "$said" >&2
  exit 1
fi
