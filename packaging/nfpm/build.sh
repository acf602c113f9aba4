#!/bin/sh
# Builds a deb and an rpm of each program: build.sh NFPM VERSION ARCH OUT, from the
# root of the repository. OUT/linux_ARCH has the programs. ARCH is Go's name.
set -eu
nfpm=$1 version=$2 ARCH=$3 out=$4
export ARCH

# Packages' versions begin with a number and have no dash: what comes after a tag
# is above it, and what has no tag is below all that have one.
case $version in
v[0-9]*.[0-9]*) VERSION=$(printf %s "${version#v}" | sed 's/-/+/; s/-/./g') ;;
*) VERSION=0~$(git log -1 --format=%cd --date=format:%Y%m%d%H%M%S 2>/dev/null || echo 0).$(printf %s "$version" | tr - .) ;;
esac
# Files are as old as the commit, so that the same commit is the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export VERSION SOURCE_DATE_EPOCH

# unit NAME prints a unit. Of packages, programs are in /usr/bin; /usr/local is for
# what is put there by hand. Nor is the unit one that "install" made, if it says so at
# its head.
unit() { sed '/^# fleet: /,/^#$/d; s,/usr/local/bin/,/usr/bin/,' "packaging/systemd/$1.service"; }

# One version is there at a time.
rm -f "$out"/*.deb "$out"/*.rpm
for name in fleet-agent fleet-coordinator fleetctl; do
	dir=$out/linux_$ARCH/$name.files
	case $name in
	fleet-agent) state=/var/lib/fleet ;;
	*) state=/var/lib/private/$name ;;
	esac
	mkdir -p "$dir"
	install -m 0755 "$out/linux_$ARCH/$name" "$dir/program"
	if [ -e packaging/systemd/$name.service ]; then
		unit $name >"$dir/unit"
		if [ $name = fleet-agent ]; then
			for beside in fleet-dead-man fleet-secrets; do
				unit $beside >"$dir/$beside.service"
			done
		fi
		for script in postinst prerm postrm; do
			sed "s,@NAME@,$name,g; s,@STATE@,$state,g" packaging/nfpm/"$script".sh >"$dir/$script"
		done
	fi
	sed "s,@DIR@,$dir,g" packaging/nfpm/$name.yaml >"$dir/nfpm.yaml"
	for kind in deb rpm; do
		"$nfpm" package --config "$dir/nfpm.yaml" --packager "$kind" --target "$out/"
	done
	rm -r "$dir"
done
