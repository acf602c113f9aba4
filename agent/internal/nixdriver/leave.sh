# Takes back, as its user, what a generation of home-manager linked: links that lead
# into it and nothing else. $1 is the generation. Where no other one follows, $2 is the
# profile: then that goes too, and what says that it runs. What can't be removed is said,
# and is no failure: the way back goes on.
set -u
generation=$1 profile=$2
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
[ -n "$profile" ] || exit 0
current=$HOME/.local/state/home-manager/gcroots/current-home
if leads "$current" "$generation"; then gone "$current"; fi
for link in "$profile"-*-link; do
	leads "$link" "$generation" || continue
	if leads "$profile" "${link##*/}" || leads "$profile" "$link"; then gone "$profile"; fi
	gone "$link"
done
echo "left as they are: directories, packages in the user's Nix profile, services that run, and whatever else is no link"
exit 0
