# Takes back, as its user, what a generation of home-manager linked: links that lead
# into it and nothing else. $1 is the generation. With a $2 no other one follows: then
# what says that it runs goes too, and with a $3 that profile. What can't be removed is
# said, and is no failure: the way back goes on.
set -u
generation=$1 last=$2 profile=$3
leads() { [ "$(readlink -- "$1")" = "$2" ]; }
gone() { rm -f -- "$1" || echo "left: $1"; }
if files=$(cd -P -- "$generation/home-files" 2>/dev/null && pwd -P); then
	cd -- "$files" && find . \( -type f -o -type l \) -exec /bin/sh -c '
		files=$1
		shift
		for file; do
			file=${file#./}
			link=$HOME/$file
			[ "$(readlink -- "$link")" = "$files/$file" ] || continue
			rm -f -- "$link" || echo "left: $link"
		done' sh "$files" {} +
fi
[ -n "$last" ] || exit 0
current=$HOME/.local/state/home-manager/gcroots/current-home
if leads "$current" "$generation"; then gone "$current"; fi
if [ -n "$profile" ]; then
	for link in "$profile"-*-link; do
		leads "$link" "$generation" || continue
		if leads "$profile" "${link##*/}" || leads "$profile" "$link"; then gone "$profile"; fi
		gone "$link"
	done
fi
echo "left as they are: directories, packages in the user's Nix profile, services that run, and whatever else is no link"
exit 0
