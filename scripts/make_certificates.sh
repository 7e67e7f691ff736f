#!/usr/bin/env bash
# Makes what a TLS federation on test machines needs: a certificate authority of its own, a server certificate, a client certificate (for mTLS)
# and node keys. Not for production: the CA's key lies beside the rest, unprotected.
#
#   scripts/make_certificates.sh DIR [HOST…]   into DIR; the server is localhost, 127.0.0.1, ::1 and every HOST (a name or an address)
#     --nodes N     so many node keys (default 2): node-1, node-1.pub, …
#     --days N      how long the certificates hold (default 30; they are good from five minutes before now; 0: expired since a minute, for tests)
#     --force       overwrite what an earlier call made
#     --quiet       do not print how to use the files
#
# DIR/ca.crt ca.key server.crt server.key client.crt client.key node-*, and node-keys, which lists the public keys. Needs openssl only.
set -euo pipefail

fail() { echo "make_certificates: $*" >&2; exit 2; }

dir='' hosts=() nodes=2 days=30 force=0 quiet=0
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --force) force=1 ;;
    --quiet) quiet=1 ;;
    --nodes | --days)
      [[ ${2-} =~ ^[0-9]{1,4}$ ]] || fail "$1 wants a number of up to four digits, not '${2-}'"
      if [ "$1" = --nodes ]; then nodes=$2; else days=$2; fi
      shift ;;
    -*) fail "unknown option '$1'; see make_certificates.sh --help" ;;
    '') fail "an empty argument" ;;
    *) if [ -z "$dir" ]; then dir=$1; else hosts+=("$1"); fi ;;
  esac
  shift
done
[ -n "$dir" ] || fail "no folder given; see make_certificates.sh --help"
command -v openssl >/dev/null || fail "openssl is missing (apt-get install openssl)"

san=DNS:localhost,IP:127.0.0.1,IP:::1
for host in "${hosts[@]+"${hosts[@]}"}"; do
  # Not more than names and addresses are made of: openssl reads commas and more as its own language.
  [[ $host =~ ^[A-Za-z0-9.:_*-]+$ ]] || fail "not a host name or address: '$host'"
  if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then san+=,IP:$host; else san+=,DNS:$host; fi
done

mkdir -p "$dir"
cd "$dir"
here=$PWD
umask 077
if [ $force = 0 ]; then
  for file in ca.crt ca.key server.crt server.key client.crt client.key node-*; do
    [ ! -e "$file" ] || fail "$here/$file exists already; --force overwrites it"
  done
else
  rm -f node-* # of an earlier call with more of them
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl() { # says nothing unless it fails
  command openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; fail "openssl $1 failed"; }
}

# `openssl x509 -req` counts from now on; `openssl ca` takes dates. Five minutes of slack for clocks that differ.
now=$(date +%s)
stamp() { date -u -d "@$1" +%Y%m%d%H%M%SZ; }
if [ "$days" = 0 ]; then
  start=$(stamp $((now - 86400))) end=$(stamp $((now - 60)))
else
  start=$(stamp $((now - 300))) end=$(stamp $((now + days * 86400)))
fi
touch "$work/index"
cat >"$work/ca.cnf" <<CNF
[ca]
default_ca = this
[this]
new_certs_dir = $work
database = $work/index
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = none
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
subjectAltName = $san
[client]
basicConstraints = CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
CNF
sign() { # name, section, common name, further options
  local name=$1 section=$2 subject=$3
  shift 3
  openssl ecparam -name prime256v1 -genkey -noout -out "$work/raw.key"
  openssl pkcs8 -topk8 -nocrypt -in "$work/raw.key" -out "$name.key"
  openssl req -new -key "$name.key" -subj "/CN=$subject" -config /dev/null -out "$work/$name.csr"
  openssl ca -batch -notext -config "$work/ca.cnf" -extensions "$section" -in "$work/$name.csr" -out "$name.crt" "$@"
}
# The CA is always good: only what it signs may be expired.
sign ca authority "fedumm test CA" -selfsign -keyfile ca.key -startdate "$(stamp $((now - 86400)))" -enddate "$(stamp $((now + (days + 1) * 86400)))"
sign server server "fedumm test server" -cert ca.crt -keyfile ca.key -startdate "$start" -enddate "$end"
sign client client "fedumm test client" -cert ca.crt -keyfile ca.key -startdate "$start" -enddate "$end"
chmod 644 ./*.crt

# OpenSSH's form of a P-256 key, which Flower's nodes read: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key
hex32() { printf '%08x' "$1"; }
string() { printf '%s%s' "$(hex32 $((${#1} / 2)))" "$1"; }
text() { string "$(printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n')"; }
binary() { tr -d '\n' | sed 's/../\\x&/g' | xargs -0 printf '%b'; }
base64_of() { binary | openssl base64 -A; }
node_key() { # file name, comment
  openssl ecparam -name prime256v1 -genkey -noout -out "$work/raw.key"
  # SEC1: 30 77 02 01 01 04 20 SECRET(32) a0 0a 06 08 CURVE(8) a1 44 03 42 00 POINT(65)
  local der public check private pad
  der=$(openssl ec -in "$work/raw.key" -outform DER | od -An -v -tx1 | tr -d ' \n')
  local secret=${der:14:64} point=${der:112:130}
  [ "${der:0:14}" = 30770201010420 ] && [ "${point:0:2}" = 04 ] && [ ${#point} = 130 ] || fail "openssl wrote a key of another form"
  while [ "${secret:0:2}" = 00 ]; do secret=${secret:2}; done
  if [[ $secret == [89a-f]* ]]; then secret=00$secret; fi # or it would be negative
  public=$(text ecdsa-sha2-nistp256)$(text nistp256)$(string "$point")
  check=$(openssl rand -hex 4)
  private=$check$check$public$(string "$secret")$(text "$2")
  pad=1
  while [ $((${#private} % 16)) != 0 ]; do private+=$(printf '%02x' $pad) pad=$((pad + 1)); done
  {
    echo "-----BEGIN OPENSSH PRIVATE KEY-----"
    printf '%s' "6f70656e7373682d6b65792d763100$(text none)$(text none)$(hex32 0)$(hex32 1)$(string "$public")$(string "$private")" |
      base64_of | fold -w 70
    echo
    echo "-----END OPENSSH PRIVATE KEY-----"
  } >"$1"
  echo "ecdsa-sha2-nistp256 $(printf '%s' "$public" | base64_of) $2" >"$1.pub"
  chmod 644 "$1.pub"
}
for ((i = 1; i <= nodes; ++i)); do
  node_key "node-$i" "node-$i"
  cat "node-$i.pub" >>node-keys
done

[ $quiet = 0 ] || exit 0
cat <<USE
Made in $here: a CA, certificates for $san, $nodes node keys.

fedumm-superlink   --ssl-ca-certfile $here/ca.crt --ssl-certfile $here/server.crt --ssl-keyfile $here/server.key
flower-superlink   the same three
  for known nodes only              --enable-supernode-auth; the keys: --supernode-keys $here/node-keys (fedumm-superlink), or
                                    flwr supernode register $here/node-1.pub CONNECTION (both)
  for mTLS (fedumm-superlink)       --ssl-client-ca-certfile $here/ca.crt
fedumm-supernode   --root-certificates $here/ca.crt --auth-supernode-private-key $here/node-1
flower-supernode   the same two
  for mTLS (fedumm-supernode)       --client-certfile $here/client.crt --client-keyfile $here/client.key
flwr               in the connection of \$FLWR_HOME/config.toml: root-certificates = "$here/ca.crt"
USE
