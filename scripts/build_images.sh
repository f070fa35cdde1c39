#!/usr/bin/env bash
# Build the images tidb-backup/webhook and tidb-backup/backup-manager with docker or buildah. docs/images.md explains each setting.
#
#   scripts/build_images.sh [webhook] [backup-manager]
#
#   ENGINE       docker | buildah                     default: whichever is installed
#   TAG          tag of both images                   default: the version in pyproject.toml
#   BASE_IMAGE   Python base image                    default: the one in the Dockerfile
#   TOOLS        local | images                       default: local when .tools/bin has the tools, else images
#   EXTRA_CA     CA bundle trusted during the build   default: none
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "build_images: $*" >&2; exit 1; }

targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(webhook backup-manager)
for target in "${targets[@]}"; do
    case "$target" in webhook | backup-manager) ;; *) die "unknown image '$target'; expected webhook or backup-manager" ;; esac
done

engine=${ENGINE:-$(command -v docker >/dev/null && echo docker || echo buildah)}
command -v "$engine" >/dev/null || die "$engine is not installed; install docker or buildah, or set ENGINE"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
tag=${TAG:-$version}
tools=${TOOLS:-$([ -e .tools/bin/dumpling ] && [ -e .tools/bin/tidb-lightning ] && echo local || echo images)}

arguments=(--build-arg "TOOLS=$tools" --build-arg "VERSION=$version")
arguments+=(--build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)")
[ -z "${BASE_IMAGE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -z "${EXTRA_CA:-}" ] || arguments+=(--secret "id=ca,src=$EXTRA_CA")

if [ "$tools" = local ]; then
    # .tools/bin holds links out of the build context; the build needs the files.
    mkdir -p .tools/image
    for tool in dumpling tidb-lightning; do
        [ -e ".tools/bin/$tool" ] || die ".tools/bin/$tool is missing; run 'make tools' or set TOOLS=images"
        cp --dereference --update --preserve=timestamps ".tools/bin/$tool" ".tools/image/$tool"
    done
fi

for target in "${targets[@]}"; do
    image="tidb-backup/$target:$tag"
    echo "build_images: $image (tools: $tools)"
    case "$engine" in
        docker) docker build "${arguments[@]}" --target "$target" --tag "$image" . ;;
        # chroot isolation needs no privileges beyond root in a container; the docker format keeps the health check.
        buildah) buildah bud --isolation "${BUILDAH_ISOLATION:-chroot}" --format docker --layers \
            "${arguments[@]}" --target "$target" --tag "$image" . ;;
        *) die "unknown ENGINE '$engine'; expected docker or buildah" ;;
    esac
done
