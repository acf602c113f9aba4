#!/bin/sh
# deb: remove, purge and others; rpm: how many versions are left.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
case $1 in
purge | 0)
	# It may be what a host is known by, or the only history of a fleet.
	[ ! -e @STATE@ ] || echo "@NAME@: @STATE@ is left as it is: remove it by hand where nobody needs it" >&2
	;;
esac
