package fleetctl

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const initHelp = `Make a new fleet: its repository in DIR (default: here), with fleet.yaml, the
trust root and the keys of its five roles, a certificate authority, your
operator identity, and the coordinator's start-up kit. Nothing is overwritten;
an interrupted init leaves no fleet and can be run again.

Private keys are age-encrypted to your own age identity and to every
--recipient. Your identity is found as for all commands (--identity,
FLEET_AGE_KEY_FILE, SOPS_AGE_KEY, SOPS_AGE_KEY_FILE, sops/age/keys.txt below the
configuration directory); where there is none, one is made.

Root keys sign the next version of the trust root, nothing else. There are two,
and one suffices (--root-threshold 1): they protect one person against losing
a key, so keep one of them elsewhere. Where a stolen key is the greater worry
use --root-keys 3 --root-threshold 2 and keep them in three places: then it
takes two, and one may be lost.`

type initOptions struct {
	Fleet, Coordinator, Address, Inventory, Operator string
	Recipients                                       []string
	RootKeys, RootThreshold                          int
}

func newInitCommand(o *options) *cobra.Command {
	opts := &initOptions{}
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Make a new fleet",
		Long:  initHelp,
		Example: `  fleetctl init first --fleet first --coordinator-machine cinnabar \
    --address cinnabar.zt:7443 --inventory inventory.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := o.Dir
			if len(args) == 1 {
				dir = args[0]
			}
			return runInit(o, opts, dir)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Fleet, "fleet", "", "the fleet's `id`: lower-case letters, digits, dashes")
	f.StringVar(&opts.Coordinator, "coordinator-machine", "", "`machine` that the coordinator runs on")
	f.StringVar(&opts.Address, "address", "", "coordinator's `host:port`, as agents and operators reach it")
	f.StringVar(&opts.Inventory, "inventory", "", "clan's evaluated inventory, a JSON `file`")
	f.StringVar(&opts.Operator, "operator", "", "your `name` as an operator (default: your user name)")
	f.StringArrayVar(&opts.Recipients, "recipient", nil, "further age `recipient` that can open the keys; may be repeated")
	f.IntVar(&opts.RootKeys, "root-keys", 2, "`number` of root keys")
	f.IntVar(&opts.RootThreshold, "root-threshold", 1, "`number` of root keys that it takes to sign")
	for _, name := range []string{"fleet", "coordinator-machine", "address"} {
		_ = cmd.MarkFlagRequired(name) // Fails only for a flag that isn't there.
	}
	return cmd
}

// initResult is the JSON form of init.
type initResult struct {
	Fleet          string `json:"fleet"`
	Directory      string `json:"directory"`
	Operator       string `json:"operator"`
	OperatorDir    string `json:"operator_directory"`
	Kit            string `json:"coordinator_kit"`
	CoordinatorKey string `json:"coordinator_key"`
	// AgeIdentity is the identity file that was made, empty where you had one.
	AgeIdentity string `json:"age_identity,omitempty"`
	RootPin     string `json:"root_pin"`
	CAPin       string `json:"ca_pin"`
}

func runInit(o *options, opts *initOptions, dir string) error {
	if dir == "" {
		dir = "."
	}
	cfg, err := opts.config(o, dir)
	if err != nil {
		return err
	}
	keys, made, err := ownIdentity(o)
	if err != nil {
		return err
	}
	cfg.Recipients = unique(append(keys.Recipients(), opts.Recipients...))
	if err := bootstrap.Create(*cfg); err != nil {
		return err
	}
	res := initResult{
		Fleet: string(cfg.Fleet), Directory: dir, Operator: string(cfg.Operator), OperatorDir: cfg.OperatorDir,
		Kit: filepath.Join(dir, "trust", "coordinator-kit.age"), CoordinatorKey: filepath.Join(dir, filepath.FromSlash(bootstrap.CoordinatorKey)),
		AgeIdentity: made,
	}
	if err := res.pins(o, dir); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(res)
	}
	res.explain(p, keys, cfg)
	return nil
}

// config checks the options.
func (opts *initOptions) config(o *options, dir string) (*bootstrap.Config, error) {
	id, err := fleet.ParseFleetID(opts.Fleet)
	if err != nil {
		return nil, usageError{err}
	}
	machine, err := fleet.ParseMachineName(opts.Coordinator)
	if err != nil {
		return nil, usageError{err}
	}
	name := opts.Operator
	if name == "" {
		name = userName(o.Getenv)
	}
	operator, err := fleet.ParseOperatorName(name)
	if err != nil {
		return nil, usageError{ui.WithHint(err, "name yourself with --operator NAME")}
	}
	if _, err := keyring.ParseRecipients(opts.Recipients); err != nil {
		return nil, usageError{err}
	}
	cfg := &bootstrap.Config{
		Dir: dir, Fleet: id, Coordinator: machine, Address: opts.Address, Operator: operator,
		RootKeys: opts.RootKeys, RootThreshold: opts.RootThreshold, OperatorDir: o.identityDir(id), Now: o.Now(),
	}
	if err := cfg.CheckRootKeys(); err != nil {
		return nil, usageError{err}
	}
	file, err := relativeTo(dir, opts.Inventory)
	if err != nil {
		return nil, err
	}
	cfg.Inventory = file
	return cfg, nil
}

// userName is who runs the program: not everything sets USER.
func userName(getenv func(string) string) string {
	if name := getenv("USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// relativeTo names a file as the fleet file in dir should.
func relativeTo(dir, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("reading the inventory: %w", err)
	}
	from, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	to, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(from, to)
	if err != nil {
		return to, nil //nolint:nilerr // Nothing relative leads there: the absolute path does.
	}
	return filepath.ToSlash(rel), nil
}

// ownIdentity loads the operator's age identities; where there is none, it
// makes one and says which file it is.
func ownIdentity(o *options) (*keyring.Keyring, string, error) {
	keys, err := o.keys()
	made := ""
	if errors.Is(err, keyring.ErrNoIdentity) {
		made = keyring.DefaultFile(o.Getenv)
		if err := keyring.Create(made); err != nil {
			return nil, "", err
		}
		keys, err = o.keys()
	}
	return keys, made, err
}

func (res *initResult) pins(o *options, dir string) error {
	w, err := (&options{Dir: dir, Getenv: o.Getenv}).open()
	if err != nil {
		return err
	}
	_, pin, err := w.Trust()
	if err != nil {
		return err
	}
	ca, err := w.CA()
	if err != nil {
		return err
	}
	res.RootPin, res.CAPin = string(pin), string(fleet.DigestOf(ca.Raw))
	return nil
}

func (res *initResult) explain(p *ui.Printer, keys *keyring.Keyring, cfg *bootstrap.Config) {
	p.Printf("Fleet %s is in %s; you are its operator %s.\n", res.Fleet, res.Directory, res.Operator)
	if res.AgeIdentity != "" {
		p.Printf("A new age identity was made for you: %s\n", res.AgeIdentity)
	}
	p.Printf(`
Trust root  %s
CA          %s

Recovery kit: without these nobody can publish to the fleet again. Keep copies
of them off this machine, the first apart from the second:
  1. your age identity   %s
  2. the repository      %s
  3. your operator certificate and key (can be made again from 1 and 2)
                         %s
Root keys: %d, of which %d must sign. Move %s
to where a thief of this machine does not find it; it is needed only to change
the trust root.

Next:
  1. commit %s (git leaves out %s)
  2. copy to %s, readable by root only, and start the coordinator there:
       %s
       %s
       fleet-coordinator run --kit coordinator-kit.age --kit-key coordinator.agekey \
         --listen :%s --state-dir /var/lib/fleet-coordinator
  3. describe what to deploy in fleet.yaml; fleetctl inventory check
  4. enrol each machine: fleetctl token MACHINE, then give what it prints to
     fleet-agent enrol - there, on standard input
  5. fleetctl publish; fleetctl status
`, res.RootPin, res.CAPin, strings.Join(keys.Sources(), ", "), res.Directory, res.OperatorDir,
		cfg.RootKeys, cfg.RootThreshold, filepath.Join(res.Directory, "trust", "keys", fmt.Sprintf("root-%d.age", cfg.RootKeys)),
		res.Directory, bootstrap.CoordinatorKey, cfg.Coordinator, res.Kit, res.CoordinatorKey,
		cfg.Address[strings.LastIndex(cfg.Address, ":")+1:])
}

// unique keeps the first of equal strings.
func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
