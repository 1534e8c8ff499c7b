#!/bin/sh
# Makes ready what our queue is compared with: BullMQ, which needs node and npm, and apalis-redis, which
# cargo builds into the folder that is named. What cannot be had is left out, and this says so.
set -u
cd "$(dirname "$0")" || exit 1
target=$1

say() { echo "$@" >&2; }

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
	say "BullMQ runs on Node.js, and node or npm is missing"
	if ! command -v apt-get >/dev/null; then
		say "this is no Debian or Ubuntu: install node and npm with your package manager"
	elif [ -n "$sudo" ] && ! command -v sudo >/dev/null; then
		say "not root and no sudo: have somebody run 'apt-get install nodejs npm'"
	else
		say "installing nodejs and npm by apt-get"
		{ $sudo apt-get update -qq &&
			$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
		} >&2 || say "apt-get could not install them"
	fi
fi

# The lock that npm keeps of what it installed is older than ours, or not there: installed anew.
if ! command -v npm >/dev/null; then
	say "BullMQ cannot be installed without npm"
elif [ ! -e bullmq/node_modules/.package-lock.json ] ||
	[ bullmq/package-lock.json -nt bullmq/node_modules/.package-lock.json ]; then
	say "installing BullMQ by npm, into bench/queue/bullmq/node_modules"
	(cd bullmq && npm ci --silent) >&2 || { rm -rf bullmq/node_modules; say "npm could not install BullMQ"; }
fi

say "building apalis-redis's part, once"
(cd apalis && CARGO_TARGET_DIR="$target" cargo build --locked --quiet --release) >&2 ||
	say "apalis-redis's part could not be built"
