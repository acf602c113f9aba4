# What builds a path of the flake. $breaks is how the lab makes builders fail, as
# many as it has lines: it is no input, as a network is none.
breaks=/var/lib/lab/builds-fail
if [ -s $breaks ]; then
	sed -i 1d $breaks
	echo "curl: (6) Could not resolve host: sources.invalid" >&2
	exit 1
fi
# $slow is how many seconds they take, and its log which were built.
slow=/var/lib/lab/builds-take
if [ -s $slow ]; then
	echo "$kind" >>$slow.log
	sleep "$(cat $slow)"
fi
mkdir "$out"
case $kind in
home)
	. "$settings"
	ln -s "$files" "$out/home-files"
	cp "$settings" "$out/settings"
	sed "s|@generation@|$out|g" "$script" >"$out/activate"
	chmod 0755 "$out/activate"
	[ "${sets_profile-}" = yes ] || echo 1 >"$out/gen-version"
	;;
etc | files)
	cp -r "$files/." "$out/"
	;;
tool)
	cp -r "$files/." "$out/"
	chmod 0755 "$out"/*activate
	;;
variant)
	printf %s "-on-$(uname -n)" >"$out/name"
	;;
toplevel)
	. "$settings"
	[ -z "${irreproducible-}" ] || uname -n >"$out/built-on"
	mkdir "$out/bin"
	ln -s "$etc" "$out/etc"
	cp "$settings" "$out/settings"
	sed "s|@toplevel@|$out|g" "$switch" >"$out/bin/switch-to-configuration"
	chmod 0755 "$out/bin/switch-to-configuration"
	echo "${interface-systemd 2}" >"$out/init-interface-version"
	# What is compared to know whether a reboot is needed.
	for file in kernel initrd kernel-modules; do
		ln -s "${kernels-/run/lab}/$file${kernel-}" "$out/$file"
	done
	echo "console=hvc0 ${params-}" >"$out/kernel-params"
	printf '#!/bin/sh\nexec %s/bin/switch-to-configuration at-boot\n' "$out" >"$out/init"
	chmod 0755 "$out/init"
	;;
esac
