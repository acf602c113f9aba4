//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	homeUser    = "ann"
	homeName    = "home/" + homeUser
	otherUser   = "bob"
	otherHome   = "home/" + otherUser
	homeVersion = ".config/lab/version"
	// homeLog has a line "driver version, generation" for each run of an activate,
	// below the home.
	homeLog = ".lab-activations"
)

// nixDaemon is what users' nix talks to.
const nixDaemon = `[Service]
ExecStart=/usr/bin/nix-daemon

[Install]
WantedBy=multi-user.target
`

// setUpHomes is a NixOS host with a daemon and a user, whose home is on no record.
func setUpHomes(ctx context.Context, w *world) error {
	if err := setUpNixOS(ctx, w); err != nil {
		return err
	}
	if _, err := w.web.Input(ctx, nixDaemon, "sh", "-euc", `cat >/etc/systemd/system/nix-daemon.service
systemctl enable -q --now nix-daemon
useradd -m -s /bin/sh `+homeUser+`
su - `+homeUser+` -c 'git config --global safe.directory `+flakeDir+`'`); err != nil {
		return err
	}
	return w.homesFile(ctx, nixosSource, homeSource(""))
}

// homeSource is the home of the one user, and what else is said of it.
func homeSource(more string) string {
	return homeName + `: {source: {flake: "git+file://` + flakeDir + `"}` + more + `}`
}

// homesFile has the fleet's file say these profiles too.
func (w *world) homesFile(ctx context.Context, source, profiles string) error {
	return w.homesFileOf(ctx, source, patient, profiles)
}

func (w *world) homesFileOf(ctx context.Context, source, policy, profiles string) error {
	return w.fleetFile(ctx, source, policy+"\n      platform: "+nixSystem()+"\n      profiles: {"+profiles+"}")
}

func homeScenarios() []scenario {
	return []scenario{
		{"the first one, beside a system", "one release for both: evaluated and built as the user, activated once, as the user; the profile is set once it is verified, its path is a root; both confirmed", firstHome},
		{"the next one", "the links of the one before are gone, the system is not activated again; confirmed", func(ctx context.Context, w *world) error {
			return w.homeBecomesGood(ctx, "h2", nil)
		}},
		{"an activate that fails", "rolled back by the recorded path's own activate: links, what runs and the profile are those of before; refused", func(ctx context.Context, w *world) error {
			return w.homeBecomesUndone(ctx, map[string]string{"activation": "fails"}, "a part of the activation failed")
		}},
		{"one that sets the profile itself", "as before home-manager's gen-version; confirmed; one that fails has the profile put back", oldHome},
		{"a file of the user's is in the way", "it is left alone, and the reason says what that exit code means; rolled back and refused", fileInTheWay},
		{"all of the agent's service is killed midway", "SIGKILL to each of its processes while home-manager's activate runs; confirmed, activated once", homeKilled},
		{"the host dies midway", "SIGKILL of all of it: booted again, it goes back and tries once more; confirmed", homeHostDies},
		{"switched by hand", "the user activates the one before: status says overridden within a minute, held, and names it; nothing undoes it, and the next one is confirmed", homeByHand},
		{"home-manager in the system", "a unit of home-manager's in the system: held under that name, nothing is built or activated, nothing is refused; when the unit is gone it goes on by itself", homeInSystem},
		{"a probe that forks without end", "its processes, in sessions of their own and deaf to SIGTERM, and its memory are in a unit of the user's slice; at the deadline nothing of them is left, and it is rolled back; the system's release beside it is confirmed, by the same agent", probeForks},
		{"an activation that forks without end", "the same of an activation, which hangs: ended whole at its deadline and rolled back; the system's release beside it is confirmed", activationForks},
		{"no such user, and then there is one", "held under that name, with the others confirmed; once there is the user it is confirmed too", homeWithoutUser},
		{"a home at war with root", "its directories lead to /etc: what runs there runs as the user, and nothing of /etc is changed; what says what runs leads to /etc/shadow: held under a name, until that is mended", homeAtWar},
		{"the first one fails", "the links are gone, and there is no profile, as before; what was the user's is there", firstHomeFails},
	}
}

// deployHome commits and publishes a version of the home; the system's too, where it
// is to be another one.
func (w *world) deployHome(ctx context.Context, version string, settings map[string]string, r release) (map[string]string, system, error) {
	r.home = map[string]string{homeVersion: version + "\n", ".config/lab/only-" + version: "x\n", ".labrc": "version=" + version + "\n"}
	r.homeSettings = settings
	if r.version == "" {
		r.version = w.good.version
	}
	s, err := w.commit(ctx, r)
	if err != nil {
		return nil, s, err
	}
	numbers, err := w.publishAll(ctx)
	return numbers, s, err
}

// homeSettled waits until a generation of a home is desired and in a state.
func (w *world) homeSettled(ctx context.Context, profile, number, state string) (profileStatus, error) {
	p, err := w.untilOf(ctx, profile, settleTimeout, func(p profileStatus) bool { return p.of(number, state) })
	if err != nil {
		err = fmt.Errorf("waiting for %s of %s to be %s: %w", number, profile, state, err)
	}
	return p, err
}

// homeIs checks that a version is what is in a home, what runs there and its profile,
// and how often it was activated.
func (w *world) homeIs(ctx context.Context, user, version string, activations int) error {
	out, err := w.web.Shell(ctx, `cd /home/`+user+`
cat `+homeVersion+`
ls .config/lab | tr '\n' ' '; echo
generation=$(readlink .local/state/home-manager/gcroots/current-home)
[ "$(readlink -f .local/state/nix/profiles/home-manager)" = "$generation" ]
[ "$(readlink -f .config/lab)" = /home/`+user+`/.config/lab ]
[ "$(readlink `+homeVersion+`)" = "$(readlink -f $generation/home-files)/`+homeVersion+`" ]
nix-store --gc --print-roots | grep -q "^/nix/var/nix/gcroots/fleet/.* $generation$"
grep -c " $generation$" `+homeLog+`
find . ! -user `+user)
	if err != nil {
		return err
	}
	if got, want := lines(out), []string{version, "only-" + version + " version ", fmt.Sprint(activations)}; !slices.Equal(got, want) {
		return fmt.Errorf("version, files, activations, and what is not the user's: %q, want %q", got, want)
	}
	return nil
}

func firstHome(ctx context.Context, w *world) error {
	numbers, s, err := w.deployHome(ctx, "h1", nil, release{version: "beside"})
	if err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	if err := w.isGood(ctx, deployed{s, numbers[systemProfile]}, 1); err != nil {
		return err
	}
	if err := w.homeIs(ctx, homeUser, "h1", 1); err != nil {
		return err
	}
	// Told to leave the profile alone; and it was this user's nix that evaluated.
	_, err = w.web.Shell(ctx, `grep -q '^1 ' /home/`+homeUser+`/`+homeLog+`; [ -d /home/`+homeUser+`/.cache/nix ]`)
	return err
}

// homeBecomesGood deploys a version of the home that is confirmed after one
// activation; the system stays.
func (w *world) homeBecomesGood(ctx context.Context, version string, settings map[string]string) error {
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	numbers, s, err := w.deployHome(ctx, version, settings, release{})
	if err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	if err := w.isGood(ctx, deployed{s, numbers[systemProfile]}, f.activations(s)); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, version, 1)
}

// homeBecomesUndone deploys one that is rolled back and refused, and has the reason
// say this.
func (w *world) homeBecomesUndone(ctx context.Context, settings map[string]string, why string) error {
	before, runs, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "bad", settings, release{})
	if err != nil {
		return err
	}
	p, err := w.homeSettled(ctx, homeName, numbers[homeName], "rolled-back")
	if err != nil {
		return err
	}
	if !slices.Contains(p.Refused, ref{numbers[homeName]}) {
		return fmt.Errorf("it is not refused: %s", p)
	}
	if err := says(p.Reason.Message, why); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, before, runs+1)
}

// homeNow is the version in the home, and how often it was activated.
func (w *world) homeNow(ctx context.Context) (version string, activations int, err error) {
	out, err := w.web.Shell(ctx, `cd /home/`+homeUser+`
cat `+homeVersion+`
grep -c " $(readlink .local/state/home-manager/gcroots/current-home)$" `+homeLog)
	if err == nil {
		_, err = fmt.Sscan(out, &version, &activations)
	}
	return version, activations, err
}

func oldHome(ctx context.Context, w *world) error {
	if err := w.homeBecomesUndone(ctx, map[string]string{"sets_profile": "yes", "activation": "fails"}, "failed"); err != nil {
		return err
	}
	if err := w.homeBecomesGood(ctx, "h3", map[string]string{"sets_profile": "yes"}); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `grep -q "^0 $(readlink -f /home/`+homeUser+`/.local/state/nix/profiles/home-manager)$" /home/`+homeUser+`/`+homeLog); err != nil {
		return err
	}
	return w.homeBecomesGood(ctx, "h4", nil)
}

func fileInTheWay(ctx context.Context, w *world) error {
	const file = "/home/" + homeUser + "/.config/lab/only-bad"
	if _, err := w.web.Shell(ctx, "su "+homeUser+" -c 'echo mine >"+file+"'"); err != nil {
		return err
	}
	before, runs, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "bad", nil, release{})
	if err != nil {
		return err
	}
	p, err := w.homeSettled(ctx, homeName, numbers[homeName], "rolled-back")
	if err == nil {
		err = says(p.Reason.Message, "a file of the user's is in the way")
	}
	if err != nil {
		return err
	}
	out, err := w.web.Shell(ctx, "fleet-agent logs "+homeName+" | grep 'is in the way of' | head -1; cat "+file+"; rm "+file)
	if err == nil {
		err = says(out, file, "mine")
	}
	if err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, before, runs+1)
}

// homeMidway waits until there is a line more in the log of activations.
func (w *world) homeMidway(ctx context.Context, before string) error {
	return wait(ctx, settleTimeout, func() error {
		now, err := w.web.Run(ctx, "cat", "/home/"+homeUser+"/"+homeLog)
		if err == nil && len(now) <= len(before) {
			err = errors.New("its activation has not begun")
		}
		return err
	})
}

func (w *world) homeActivations(ctx context.Context) (string, error) {
	return w.web.Run(ctx, "cat", "/home/"+homeUser+"/"+homeLog)
}

func homeKilled(ctx context.Context, w *world) error {
	before, err := w.homeActivations(ctx)
	if err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "h5", map[string]string{"slow": "6"}, release{})
	if err != nil {
		return err
	}
	if err := w.homeMidway(ctx, before); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "kill", "--kill-whom=all", "-s", "KILL", "fleet-agent"); err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, "h5", 1)
}

func homeHostDies(ctx context.Context, w *world) error {
	before, err := w.homeActivations(ctx)
	if err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "rm", "-f", goesOn); err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "h6", map[string]string{"hangs_without": goesOn}, release{})
	if err != nil {
		return err
	}
	if err := w.homeMidway(ctx, before); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch "+goesOn+"; sync"); err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, "h6", 2)
}

// otherSource is the generation of the first user, which asks whom it runs as.
func otherSource() string {
	return homeSource("") + ", " +
		otherHome + `: {source: {flake: "git+file://` + flakeDir + `", attr: 'homeConfigurations."` + homeUser + "@" + nixSystem() + `".activationPackage'}}`
}

func homeWithoutUser(ctx context.Context, w *world) error {
	if err := w.homesFile(ctx, nixosSource, otherSource()); err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "h10", nil, release{})
	if err != nil {
		return err
	}
	if err := w.untilHeld(ctx, otherHome, numbers[otherHome], "no-such-user"); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "useradd", "-m", "-s", "/bin/sh", otherUser); err != nil {
		return err
	}
	began := time.Now()
	if _, err := w.homeSettled(ctx, otherHome, numbers[otherHome], "confirmed"); err != nil {
		return err
	}
	w.log("confirmed %.1f s after there was a user", time.Since(began).Seconds())
	return w.homeIs(ctx, otherUser, "h10", 1)
}

func firstHomeFails(ctx context.Context, w *world) error {
	const third = "eve"
	if _, err := w.web.Shell(ctx, `useradd -m -s /bin/sh `+third+`
su `+third+` -c 'mkdir -p ~/.config/lab; echo mine >~/.config/lab/mine; ln -s mine ~/.config/lab/linked'`); err != nil {
		return err
	}
	profiles := otherSource() + ", " + strings.Replace(strings.SplitN(otherSource(), ", ", 2)[1], otherHome, "home/"+third, 1)
	if err := w.homesFile(ctx, nixosSource, profiles); err != nil {
		return err
	}
	version, _, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "h11", map[string]string{"activation": "fails", "sets_profile": "yes"}, release{})
	if err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, "home/"+third, numbers["home/"+third], "rolled-back"); err != nil {
		return err
	}
	out, err := w.web.Shell(ctx, `cd /home/`+third+`
ls -A .config/lab .local/state/nix/profiles | tr '\n' ' '; echo
[ ! -L .labrc ]; [ ! -L .local/state/home-manager/gcroots/current-home ]
fleet-agent logs home/`+third+` | grep -c 'left as they are'`)
	if err != nil {
		return err
	}
	if got := lines(out); len(got) != 2 || got[0] != ".config/lab: linked mine  .local/state/nix/profiles: " || got[1] == "0" {
		return fmt.Errorf("left are %q", got)
	}
	// The others went back to what they had.
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "rolled-back"); err != nil {
		return err
	}
	if now, _, err := w.homeNow(ctx); err != nil || now != version {
		return fmt.Errorf("in the home is %s, want %s: %w", now, version, err)
	}
	return nil
}
