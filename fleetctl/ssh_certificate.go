package fleetctl

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/sshca"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	defaultCertified = 8 * time.Hour
	maxCertified     = 7 * 24 * time.Hour
	// clockSkew is how much earlier than now a certificate begins.
	clockSkew = 5 * time.Minute
)

// certificateOptions are those of ssh certificate.
type certificateOptions struct {
	varsOptions

	ca, key    string
	principals []string
	permit     []string
	lifetime   time.Duration
}

func newSSHCertificateCommand(o *options) *cobra.Command {
	opts := &certificateOptions{}
	cmd := &cobra.Command{
		Use:   "certificate",
		Short: "Certify a key of yours for some hours",
		Long: `Certify a key of yours for some hours: with --public-key the one whose .pub file that is, whose
certificate is written beside it, as ssh looks for it; else one that is made now and is
nowhere but in your ssh-agent, which forgets it when the certificate ends.

It has a serial of its own, by which fleetctl ssh revoke ends it early on hosts whose sshd
reads ` + repo.SSHRevocations + ` (RevokedKeys), and your name as its ID, which sshd logs. Hosts
trust it by TrustedUserCAKeys, with the CA's public key.`,
		Example: "  fleetctl ssh certificate --principal root --for 2h\n  fleetctl ssh certificate --public-key ~/.ssh/id_ed25519.pub",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSSHCertificate(cmd.Context(), o, opts) },
	}
	opts.addTo(cmd)
	f := cmd.Flags()
	f.StringVar(&opts.ca, "ca", defaultCA, "`generator` of the CA's key")
	f.StringVar(&opts.key, "public-key", "", "`file` with the public key (default: a new key, in ssh-agent)")
	f.StringSliceVar(&opts.principals, "principal", []string{"root"}, "`account` that may be logged into; several times for several")
	f.StringSliceVar(&opts.permit, "permit", []string{"permit-pty", "permit-port-forwarding"}, "`extension` of the certificate; several times for several")
	f.DurationVar(&opts.lifetime, "for", defaultCertified, "`duration` for which it holds, at most 168h")
	return cmd
}

// certified is the JSON form of ssh certificate.
type certified struct {
	Serial      string    `json:"serial"`
	ID          string    `json:"id"`
	Principals  []string  `json:"principals"`
	Until       time.Time `json:"until"`
	Fingerprint string    `json:"fingerprint"`
	// File is where the certificate is; "" for in ssh-agent.
	File string `json:"file,omitempty"`
}

func runSSHCertificate(ctx context.Context, o *options, opts *certificateOptions) error {
	if opts.lifetime < time.Minute || opts.lifetime > maxCertified {
		return usageError{fmt.Errorf("--for %s: want between 1m and %s", opts.lifetime, maxCertified)}
	}
	holder, err := o.holder(opts.key)
	if err != nil {
		return err
	}
	defer holder.close()
	c, err := o.changeSSH(ctx, &opts.varsOptions)
	if err != nil {
		return err
	}
	defer c.close()
	g, err := c.ca(opts.ca)
	if err != nil {
		return err
	}
	public, err := c.caPublic(c.tree, g)
	if err != nil {
		return err
	}
	private, err := c.secret(g.ID(sshCAFile).Path())
	if err != nil {
		return err
	}
	defer clear(private)
	serial, err := newSerial()
	if err != nil {
		return err
	}
	now := o.Now().UTC().Truncate(time.Second)
	user := sshca.User{
		ID: c.me, Principals: opts.principals, Serial: serial, From: now.Add(-clockSkew), Until: now.Add(opts.lifetime), Permit: opts.permit,
	}
	line, err := sshca.UserCertificate(rand.Reader, private, holder.public, user, c.me)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	fingerprint, err := sshca.Fingerprint(holder.public)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	rec := repo.SSHRecord{
		Act: repo.SSHCertified, Serial: serial, Key: strings.TrimSpace(string(holder.public)), Fingerprint: fingerprint,
		CA: strings.TrimSpace(string(public)), Principals: opts.principals, Until: user.Until,
	}
	if err := c.record(ctx, fmt.Sprintf("ssh: certify %s as %s until %s", c.me, strings.Join(opts.principals, ", "), user.Until.Format(time.RFC3339)), []repo.SSHRecord{rec}); err != nil {
		return err
	}
	if err := holder.take(line, opts.lifetime); err != nil {
		return err
	}
	result := certified{strconv.FormatUint(serial, 10), c.me, opts.principals, user.Until, fingerprint, holder.file}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	where := "in ssh-agent, until then"
	if holder.file != "" {
		where = holder.file
	}
	p.Printf("%s may log in as %s until %s: certificate %s, %s\n", c.me, strings.Join(opts.principals, ", "), user.Until.Format(time.RFC3339), result.Serial, where)
	return nil
}

// newSerial draws one: what is counted could be counted twice, in two checkouts.
func newSerial() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("drawing a serial: %w", err)
		}
		// Half of them, so that every tool reads it as a number. 0 is no certificate's.
		if s := binary.BigEndian.Uint64(b[:]) >> 1; s != 0 {
			return s, nil
		}
	}
}

// keyHolder has the key that is to be certified, and takes the certificate.
type keyHolder struct {
	public []byte
	// file is that of the certificate; else private and agent are there.
	file    string
	private ed25519.PrivateKey
	agent   agent.Agent
	conn    net.Conn
}

// holder reads a public key, or makes a key for ssh-agent.
func (o *options) holder(file string) (*keyHolder, error) {
	if file != "" {
		base, ok := strings.CutSuffix(file, ".pub")
		if !ok || strings.HasSuffix(base, "-cert") {
			return nil, usageError{fmt.Errorf("--public-key %s: want the .pub file of a key", file)}
		}
		line, err := atomicfile.ReadAtMost(file, 64<<10)
		if err != nil {
			return nil, fmt.Errorf("--public-key: %w", err)
		}
		return &keyHolder{public: line, file: base + "-cert.pub"}, nil
	}
	socket := o.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, ui.WithHint(errors.New("no ssh-agent is there to take a key"), "start one (eval $(ssh-agent)), or certify a key of yours with --public-key ~/.ssh/id_ed25519.pub")
	}
	conn, err := net.Dial("unix", socket) //nolint:noctx // Local, and answers at once or not at all.
	if err != nil {
		return nil, fmt.Errorf("reaching ssh-agent: %w", err)
	}
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a key: %w", err), conn.Close())
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a key: %w", err), conn.Close())
	}
	return &keyHolder{public: ssh.MarshalAuthorizedKey(key), private: private, agent: agent.NewClient(conn), conn: conn}, nil
}

func (h *keyHolder) close() {
	clear(h.private)
	if h.conn != nil {
		_ = h.conn.Close()
	}
}

// take keeps a certificate.
func (h *keyHolder) take(line []byte, lifetime time.Duration) error {
	if h.file != "" {
		if err := atomicfile.WriteFile(h.file, line, 0o644); err != nil { //nolint:gosec // It is public.
			return fmt.Errorf("keeping the certificate: %w", err)
		}
		return nil
	}
	key, comment, _, _, err := ssh.ParseAuthorizedKey(line)
	cert, is := key.(*ssh.Certificate)
	if err != nil || !is {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	err = h.agent.Add(agent.AddedKey{
		PrivateKey: h.private, Certificate: cert, Comment: comment + " by fleet", LifetimeSecs: uint32(lifetime / time.Second), //nolint:gosec // At most a week.
	})
	if err != nil {
		return ui.WithHint(fmt.Errorf("giving the key to ssh-agent: %w", err), "the certificate is on record, and of no use: fleetctl ssh log has its serial")
	}
	return nil
}
