#!/bin/sh
# Makes the stack's secrets, once: a Ray token, S3 credentials, a Grafana password. Nothing is printed.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
[ -s secrets/ray_token ] || draw > secrets/ray_token
[ -s secrets/grafana_password ] || draw > secrets/grafana_password
if [ ! -s secrets/aws_credentials ] || [ ! -s s3.env ]; then
  key=$(draw) secret=$(draw)
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" > secrets/aws_credentials
  printf 'ROOT_ACCESS_KEY=%s\nROOT_SECRET_KEY=%s\n' "$key" "$secret" > s3.env
fi
# Containers read the files as user 10001; where this is not root, they have to be readable for it.
if [ "$(id -u)" = 0 ]; then chown 10001 secrets/ray_token secrets/aws_credentials; else chmod 644 secrets/*; fi
