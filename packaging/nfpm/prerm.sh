#!/bin/sh
# deb: remove or upgrade; rpm: how many versions will be left.
set -e
case $1 in
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl disable --quiet --now @NAME@.service
	;;
esac
