#!/bin/sh
# deb: configure [OLD VERSION]; rpm: how many versions there are now.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# Nothing is enabled or started by being installed. What runs is restarted by an
# upgrade; an activation in progress goes on meanwhile. It is not waited for: this
# may be part of such an activation, which the agent that starts waits for.
if [ "$1" = configure ] && [ -n "$2" ] || [ "$1" = 2 ]; then
	systemctl --no-block try-restart @NAME@.service
fi
