//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// cacheDir is a binary cache that both hosts see: it is below the flake's
// directory, which they share, and no part of the flake.
const cacheDir = flakeDir + "/.git/lab-cache"

func sourceScenarios() []scenario {
	return []scenario{
		{"a builder fails once", "as without a network; built again by itself, confirmed, activated once", builderFails},
		{"git and nix of one mind", "a flake's locked URL and hash as git and the evaluation tell them are those of nix flake metadata", sameLock},
		{"the flake's server is away", "said; fetched by itself when it is back, confirmed", serverAway},
		{"the flake's tree is damaged", "as by a power loss in the midst of a build: fetched anew by itself, confirmed, activated once", treeDamaged},
		{"flake with a closure manifest", "built there and here to the same contents; confirmed", func(ctx context.Context, w *world) error {
			defer w.restoreSource(ctx)
			if err := w.fleetFile(ctx, pinnedSource, patient); err != nil {
				return err
			}
			return w.becomesGood(ctx, release{})
		}},
		{"the builder's key is replaced", "by trust rotate and trust sign: the next closure manifest is signed by the new key alone, and confirmed", builderRotated},
		{"store path with a closure manifest", "substituted from a cache with a signature; the closure is as signed; confirmed", storePath},
		{"a cache with other contents", "validly signed by the cache's key, not as in the manifest: refused, nothing activated", tamperedCache},
		{"another tree than the signed one", "the flake that the host fetches has another narHash: refused by that name, nothing of it evaluated or built, the host is as it was", anotherTree},
		{"another out path than the signed one", "what the host evaluates has another out path: refused by that name, nothing of it built, the host is as it was", anotherOutPath},
		{"another content than the signed one", "a builder that does not come out the same: its closure is not as in the manifest, refused by that name, no root is left, the host is as it was", anotherContent},
	}
}

// builderRotated has what is built signed by a key that the trust root before did
// not have, and by no other.
func builderRotated(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	keys := func() (string, error) {
		out, err := w.ops.Run(ctx, "env", "FLEET_DIR="+repo, "fleetctl", "trust", "show")
		if err != nil {
			return "", err
		}
		var builder []string
		for _, line := range lines(out) {
			if strings.HasPrefix(line, "builder ") {
				builder = append(builder, line)
			}
		}
		if len(builder) == 0 {
			return "", fmt.Errorf("the trust root has no builder:\n%s", out)
		}
		return strings.Join(builder, "\n"), nil
	}
	before, err := keys()
	if err != nil {
		return err
	}
	if _, err := w.ops.Shell(ctx, "export FLEET_DIR="+repo+"; fleetctl trust rotate builder && fleetctl trust sign --yes"); err != nil {
		return err
	}
	after, err := keys()
	if err != nil {
		return err
	}
	if before == after {
		return fmt.Errorf("the role is as it was: %s", after)
	}
	if err := w.fleetFile(ctx, pinnedSource, patient); err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

// restoreSource goes back to the flake; a failure shows in the next scenario.
func (w *world) restoreSource(ctx context.Context) {
	if err := w.fleetFile(ctx, nixosSource, patient); err != nil {
		w.log("restoring the source: %v", err)
	}
}

func builderFails(ctx context.Context, w *world) error {
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; echo once >/var/lib/lab/builds-fail"); err != nil {
		return err
	}
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	_, err := w.web.Run(ctx, "test", "!", "-s", "/var/lib/lab/builds-fail")
	if err != nil {
		err = fmt.Errorf("no builder failed: %w", err)
	}
	return err
}

// sameLock compares what is published where git tells what a flake is locked to
// with what nix says itself.
func sameLock(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if _, err := w.commit(ctx, release{}); err != nil {
		return err
	}
	for _, ref := range []string{"git+file://" + flakeDir, flakeDir} {
		if err := w.fleetFile(ctx, `{flake: "`+ref+`"}`, patient); err != nil {
			return err
		}
		out, err := w.ops.Run(ctx, "env", "FLEET_DIR="+repo, "fleetctl", "publish", "--dry-run", "-o", "json", webName)
		if err != nil {
			return err
		}
		var published struct {
			Generations []struct {
				Source fleet.Source `json:"source"`
			} `json:"generations"`
		}
		if err := json.Unmarshal([]byte(out), &published); err != nil {
			return fmt.Errorf("publish printed %.200q: %w", out, err)
		}
		if out, err = w.ops.Run(ctx, "nix", "flake", "metadata", "--json", ref); err != nil {
			return err
		}
		var said struct {
			URL    string `json:"url"`
			Locked struct {
				NarHash string `json:"narHash"`
			} `json:"locked"`
		}
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			return fmt.Errorf("nix printed %.200q: %w", out, err)
		}
		if len(published.Generations) != 1 || published.Generations[0].Source.Flake == nil {
			return fmt.Errorf("published %+v", published)
		}
		if f := published.Generations[0].Source.Flake; f.URL != said.URL || f.NarHash != said.Locked.NarHash {
			return fmt.Errorf("%s: published %s, %s; nix says %s, %s", ref, f.URL, f.NarHash, said.URL, said.Locked.NarHash)
		}
	}
	return nil
}

// treeDamaged empties a file of what the agent's host fetched of the flake.
func treeDamaged(ctx context.Context, w *world) error {
	s, err := w.commit(ctx, release{})
	if err != nil {
		return err
	}
	rev, err := w.ops.Run(ctx, "git", "-C", flakeDir, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	tree, err := w.web.Run(ctx, "nix", "eval", "--raw", "--expr",
		`(builtins.fetchTree "git+file://`+flakeDir+"?rev="+strings.TrimSpace(rev)+`").outPath`)
	if err != nil {
		return err
	}
	file := tree + "/flake.nix"
	if _, err := w.web.Shell(ctx, "chmod 600 "+file+" && : >"+file); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	if err := w.isGood(ctx, deployed{s, number}, 1); err != nil {
		return err
	}
	if out, err := w.web.Run(ctx, "nix", "store", "verify", "--no-trust", tree); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// serverAway has the agent's host fetch the flake over the network.
func serverAway(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	source := strings.Replace(nixosSource, "}", `, url: "git://[`+w.ops.Address+`]/`+strings.TrimPrefix(flakeDir, "/srv/")+`"}`, 1)
	if err := w.fleetFile(ctx, source, patient); err != nil {
		return err
	}
	server := "systemd-run -q --unit=lab-git --collect git daemon --reuseaddr --export-all --base-path=/srv --listen=" + w.ops.Address
	if _, err := w.ops.Shell(ctx, server); err != nil {
		return err
	}
	if err := w.becomesGood(ctx, release{}); err != nil {
		return fmt.Errorf("while the server is there: %w", err)
	}
	s, err := w.commit(ctx, release{})
	if err != nil {
		return err
	}
	// The publisher reads its own copy, and says where hosts find the flake.
	if _, err := w.ops.Run(ctx, "systemctl", "stop", "lab-git"); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	d := deployed{s, number}
	if _, err = w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.Desired.Number == d.number && p.Reason.Code == "build-failed"
	}); err != nil {
		return err
	}
	if _, err := w.ops.Shell(ctx, server); err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 1); err != nil {
		return err
	}
	_, err = w.ops.Run(ctx, "systemctl", "stop", "lab-git")
	return err
}

// cache makes a binary cache that the agent's host trusts, and has a system in
// it.
func (w *world) cache(ctx context.Context, s system) error {
	out, err := w.ops.Shell(ctx, `
[ -e /root/cache-key ] || nix key generate-secret --key-name lab-cache >/root/cache-key
rm -rf `+cacheDir+`
nix build --no-link 'git+file://`+flakeDir+`#`+attr+`'
nix store sign --recursive --key-file /root/cache-key `+s.toplevel+`
nix copy --to 'file://`+cacheDir+`?compression=none' `+s.toplevel+`
nix key convert-secret-to-public </root/cache-key`)
	if err != nil {
		return err
	}
	_, err = w.web.Input(ctx, nixConf+"extra-substituters = file://"+cacheDir+"\nextra-trusted-public-keys = "+strings.TrimSpace(out)+"\n",
		"sh", "-euc", "cat >/etc/nix/nix.conf")
	return err
}

func storePath(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	s, err := w.commit(ctx, release{})
	if err != nil {
		return err
	}
	if err := w.cache(ctx, s); err != nil {
		return err
	}
	d, err := w.publishPath(ctx, s)
	if err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 1); err != nil {
		return err
	}
	// Substituted, not built: what was built here has no signature.
	_, err = w.web.Shell(ctx, "nix path-info --json --sigs "+s.toplevel+" | grep -q lab-cache")
	return err
}

func (w *world) publishPath(ctx context.Context, s system) (deployed, error) {
	if err := w.fleetFile(ctx, "{storePath: "+s.toplevel+"}", patient); err != nil {
		return deployed{}, err
	}
	number, err := w.publish(ctx)
	return deployed{s, number}, err
}

// tamperedCache puts other contents for a path of the closure into the cache,
// and signs them as the owner of the cache's key can.
func tamperedCache(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	s, err := w.commit(ctx, release{})
	if err != nil {
		return err
	}
	if err := w.cache(ctx, s); err != nil {
		return err
	}
	if _, err := w.ops.Shell(ctx, `
etc=$(readlink -f `+s.toplevel+`/etc)
cd `+cacheDir+`
base=${etc#/nix/store/}
info=${base%%-*}.narinfo
rm -rf /tmp/evil && cp -r "$etc" /tmp/evil && chmod -R u+w /tmp/evil
sed -i 's/echo/echo evil/' /tmp/evil/systemd/system/lab-web.service
find /tmp/evil -type f -exec chmod 0444 {} +
nix-store --dump /tmp/evil >nar/evil.nar
hash=sha256:$(nix hash file --type sha256 --base32 nar/evil.nar)
size=$(stat -c %s nar/evil.nar)
sed -i "s|^URL: .*|URL: nar/evil.nar|;s|^\(.*\)Hash: .*|\1Hash: $hash|;s|^\(.*\)Size: .*|\1Size: $size|;/^Sig: /d" "$info"
rm -rf /root/.cache/nix/binary-cache-*
nix store sign --store file://`+cacheDir+` --key-file /root/cache-key "$etc"
grep -q '^Sig: lab-cache' "$info"`); err != nil {
		return err
	}
	d, err := w.publishPath(ctx, s)
	if err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.Desired.Number == d.number && p.State == "failed" })
	if err != nil {
		return err
	}
	if !strings.Contains(p.Reason.Message, "closure manifest") {
		return fmt.Errorf("the reason does not say why: %s", p)
	}
	if err := w.activated(ctx, s, 0); err != nil {
		return err
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	w.restoreSource(ctx)
	return w.becomesGood(ctx, release{})
}
